"""Missions drawn by Hypothesis: every one that the types can hold and the rules allow."""

from hypothesis import strategies as st

from preceptor.envs.missions.mission import COLOURS, KINDS, PLACES, Clause, Description, Mission


def descriptions(*kinds: str) -> st.SearchStrategy[Description]:
    fields = st.sampled_from(("", *COLOURS)), st.sampled_from(kinds), st.sampled_from(("", *PLACES))
    return st.tuples(*fields).map(Description._make)


ANY, CARRIED = descriptions("", *KINDS), descriptions("", "box", "ball", "key")
CLAUSE = st.one_of(
    ANY.map(lambda what: Clause("goto", what)),
    descriptions("door").map(lambda what: Clause("open", what)),
    CARRIED.map(lambda what: Clause("pickup", what)),
    st.tuples(CARRIED, ANY).map(lambda two: Clause("putnext", *two)),
)
PART = st.lists(CLAUSE, min_size=1, max_size=2).map(tuple)
MISSION = st.tuples(PART, st.one_of(st.just(()), PART)).map(Mission._make)
