"""The order of fetching: turns of hosts, and bounds of each."""

import random

from edge_lib.sources.download.schedule import Schedule, host_of


def make(per_host, counts, seed=0):
    """A schedule with so many tasks of each host."""
    schedule = Schedule(per_host)
    tasks = [(host, f"{host}{n}") for host, count in counts.items() for n in range(count)]
    schedule.add(tasks, random.Random(seed))
    return schedule


def taken(schedule):
    return [task for _, task in iter(schedule.take, None)]


def test_schedule_lets_hosts_take_turns():
    order = taken(make(9, {"a": 3, "b": 3, "c": 3}))
    assert sorted(order[:3]) == ["a0", "b0", "c0"]
    assert [task[1] for task in order] == [*"000111222"]
    assert [task[0] for task in order[:3]] == [task[0] for task in order[6:]]


def test_schedule_orders_hosts_by_its_seed():
    counts = dict.fromkeys("abcdefgh", 1)
    orders = {tuple(taken(make(1, counts, seed))) for seed in (1, 1, 2, 3)}
    assert len(orders) == 3


def test_schedule_takes_at_most_per_host():
    schedule = make(2, {"a": 5, "b": 1})
    assert sorted(taken(schedule)) == ["a0", "a1", "b0"]
    assert (schedule.waiting, schedule.active) == (3, 3)
    schedule.release("a")
    assert taken(schedule) == ["a2"]
    schedule.release("b")
    assert taken(schedule) == []


def test_schedule_counts_tasks_of_a_host_that_comes_again():
    schedule = make(2, {"a": 1})
    assert taken(schedule) == ["a0"]
    schedule.add([("a", "a1"), ("a", "a2")], random.Random(0))
    assert taken(schedule) == ["a1"]
    schedule.release("a")
    assert taken(schedule) == ["a2"]
    for _ in range(2):
        schedule.release("a")
    assert (schedule.waiting, schedule.active) == (0, 0)


def test_host_of_a_url():
    urls = "HTTP://A.example:80/x", "http://[::1", "", "  https://u:p@b.example", "no url"
    assert [host_of(url) for url in urls] == ["a.example", "", "", "b.example", ""]
