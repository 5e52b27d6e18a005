"""What counts as the URL of a web page, and as an address of the public internet."""

import pytest

from edge_lib.sources.download.addresses import (
    MAX_LENGTH,
    WebAddress,
    is_public,
    join_url,
    parse_url,
)
from edge_lib.sources.download.statuses import Failure

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::6810:84e5",
    "2a00:1450:4001:801::200e",
    "2001:200::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "target", "authority"),
    [
        ("http://a.com", "http", "a.com", 80, "/", "a.com"),
        ("HTTPS://A.com:443/B?c=D#e", "https", "a.com", 443, "/B?c=D", "a.com"),
        ("http://a.com:443?q", "http", "a.com", 443, "/?q", "a.com:443"),
        (" http://a.com/x \n", "http", "a.com", 80, "/x", "a.com"),
        ("http://a.com./x", "http", "a.com", 80, "/x", "a.com"),
        ("http://a_b-c.com/", "http", "a_b-c.com", 80, "/", "a_b-c.com"),
        ("http://münchen.de/ü", "http", "xn--mnchen-3ya.de", 80, "/%C3%BC", "xn--mnchen-3ya.de"),
        ("http://a.com/a b%20c|[1].jpg", "http", "a.com", 80, "/a%20b%20c|[1].jpg", "a.com"),
        ("http://a.com/50%/a%zz", "http", "a.com", 80, "/50%/a%zz", "a.com"),
        ("http://a.com//b/../c", "http", "a.com", 80, "//c", "a.com"),
        ("http://[2606:4700::1]:8/", "http", "2606:4700::1", 8, "/", "[2606:4700::1]:8"),
        ("http://2130706433/", "http", "2130706433", 80, "/", "2130706433"),
        ("http://0x7f.1/", "http", "0x7f.1", 80, "/", "0x7f.1"),
    ],
)
def test_url_in_parts(url, scheme, host, port, target, authority):
    address = parse_url(url)
    assert address == WebAddress(scheme, host, port, target.encode())
    assert address.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        None,
        "a.com/x.jpg",
        "//a.com/x.jpg",
        "/x.jpg",
        "http:",
        "http://",
        "http:///x.jpg",
        "http:/a.com/x",
        "http:a.com",
        "http://:80/",
        "http://?a",
        "http://a b.com/",
        "http://a.com /x",
        "http://a..com/",
        "http://.a.com/",
        "http://./",
        "http://a.com../",
        "http://%61.com/",
        "http://a%00b.com/",
        "http://a.com:0/",
        "http://a.com:65536/",
        "http://a.com:-1/",
        "http://a.com:80x/",
        "http://a.com:99999999999999999999/",
        "http://user@a.com/",
        "http://user:password@a.com/",
        "http://:@a.com/",
        "http://127.0.0.1\\@a.com/",
        "http://a.com\\.b.com/",
        "http://a.com\\@127.0.0.1/",
        "http://a.com#@127.0.0.1/ \0",
        "http://[::1",
        "http://::1/",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[a.com]/",
        "http://[127.0.0.1]/",
        "http://[v1.x]/",
        "http://[]/",
        "http://1.2.3.4.5:x/",
        "http://256.256.256.256/",
        "http://😇.com/",
        "http://①②⑦.⓪.⓪.①/",
        "http://a。com\0/",
        "http://a.com/\0",
        "http://a.com/\n/",
        "http://a.com/\x7f",
        "http://a.com/\ud800",
        "http://\ud800/",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 127}com/",
        f"http://a.com/{'a' * MAX_LENGTH}",
        "http://*.a.com/",
        "http://$HOME/",
        "http://<script>/",
    ],
    ids=lambda url: ascii(url)[:40],
)
def test_bad_url_is_refused(url):
    with pytest.raises(Failure) as failure:
        parse_url(url)
    assert failure.value.status == "bad_url"
    assert failure.value.error


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:x",
        "data:image/png;base64,AA",
        "javascript:1",
        "ftp://a.com/x",
        "gopher://a.com/",
        "ws://a.com/",
        "s3://bucket/x",
        "blob:http://a.com/x",
        "httpx://a.com/",
    ],
)
def test_url_of_another_scheme_is_not_http(url):
    with pytest.raises(Failure) as failure:
        parse_url(url)
    assert failure.value.status == "not_http"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/c", "http://a.com/c"),
        ("c?d", "http://a.com/x/c?d"),
        ("../c", "http://a.com/c"),
        ("?d", "http://a.com/x/y?d"),
        ("//b.com/c", "http://b.com/c"),
        ("https://b.com", "https://b.com"),
        (" /c ", "http://a.com/c"),
        ("file:///etc", "file:///etc"),
    ],
)
def test_location_of_a_redirect(location, url):
    assert join_url(" http://a.com/x/y?z", location) == url
