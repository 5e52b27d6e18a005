"""The server that the benchmark of downloads uses."""

import io
from http.client import HTTPConnection

import numpy as np
import pytest
from PIL import Image

from edge_lib.bench.picture_server import IMAGES, SIDE, first_request, picture_server


def read(connection, path):
    connection.request("GET", path)
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize("keep_alive", [True, False])
def test_server_sends_distinct_pictures_and_keeps_connections_as_asked(keep_alive):
    with picture_server(0, keep_alive) as address:
        connection = HTTPConnection(address.removeprefix("http://"))
        response, first = read(connection, "/1.jpg")
        assert response.will_close is not keep_alive
        _, repeated = read(connection, "/1.jpg")
        _, same_image = read(connection, f"/{1 + IMAGES}.jpg")
        _, other = read(connection, "/2.jpg")
        assert first_request(address) is not None
        assert first_request(address) is None  # since the last time
    assert first == repeated
    assert len({first, same_image, other}) == 3
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in (first, same_image, other)]
    assert pixels[0].shape == (SIDE, SIDE, 3)
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] != pixels[2]).any()
