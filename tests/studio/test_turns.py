"""People take turns by the time of the device that their jobs take, not by how many they are."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from studio.jobs.turns import Turns


def job(owner, seconds=1.0, name=""):
    return SimpleNamespace(owner=owner, seconds=seconds, name=name)


def run(turns, jobs, until=10**9):
    """Run jobs that all wait from the start; the owners in the order of their turns, and when each job ended."""
    waiting, now, ended = [], 0.0, []
    for one in jobs:
        turns.arrive(one.owner, one.owner in {other.owner for other in waiting})
        waiting.append(one)
    while waiting and now < until:
        chosen = turns.choose(waiting)
        waiting.remove(chosen)
        now += chosen.seconds
        turns.charge(chosen.owner, chosen.seconds)
        ended.append((chosen, now))
    return ended


def test_one_person_is_served_in_order():
    jobs = [job("ann", seconds) for seconds in (3, 1, 2)]
    assert [one for one, _ in run(Turns(), jobs)] == jobs


def test_a_long_job_costs_its_owner_as_many_short_turns_of_others():
    jobs = [*(job("ann", 10.0) for _ in range(10)), *(job("bob", 1.0) for _ in range(100))]
    ended = run(Turns(), jobs, until=60)
    used = Counter()
    for one, _ in ended:
        used[one.owner] += one.seconds
    # Shares differ by one job of the longest kind at most: theorem 1 of the source for equal weights.
    assert abs(used["ann"] - used["bob"]) <= 10.0
    assert len([one for one, _ in ended if one.owner == "bob"]) >= 20


def test_time_in_which_nothing_was_asked_for_is_not_saved_up():
    turns = Turns()
    run(turns, [job("ann", 50.0), job("ann", 50.0)])
    ended = run(turns, [*(job("ann") for _ in range(4)), *(job("new") for _ in range(4))])
    # The newcomer begins where the last job began, at 50 of ann's 100 seconds: one credit of the last job, no more.
    assert [one.owner for one, _ in ended][:4] == ["new"] * 4
    turns = Turns()
    run(turns, [job("ann", 1.0) for _ in range(100)])
    order = [one.owner for one, _ in run(turns, [*(job("ann") for _ in range(6)), *(job("new") for _ in range(6))])]
    assert order[:4].count("ann") >= 1 and order[:8].count("new") <= 5


def test_who_has_no_job_and_owes_nothing_is_forgotten():
    turns = Turns()
    run(turns, [job(f"visitor {i}", 1.0) for i in range(1000)])
    turns.arrive("ann", False)
    turns.choose([job("ann")])
    turns.charge("ann", 5.0)
    turns.forget({"ann"})
    turns.arrive("ann", True)
    turns.choose([job("ann")])
    turns.forget({"ann"})
    assert len(turns._tags) <= 1


def test_the_forecast_is_the_order_in_which_jobs_then_run():
    jobs = [job("ann", 3.0), job("ann", 3.0), job("bob", 1.0), job("bob", 1.0), job("eve", 5.0), job("bob", 1.0)]
    turns, waiting = Turns(), []
    for one in jobs:
        turns.arrive(one.owner, one.owner in {other.owner for other in waiting})
        waiting.append(one)
    forecast = turns.order(waiting, lambda one: one.seconds)
    assert [one for one, _ in run(Turns(), jobs)] == forecast
