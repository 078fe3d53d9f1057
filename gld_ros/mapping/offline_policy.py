"""Which topic of a bag an automatic policy follows, and which policies a bag can serve."""

from gld_ros.bags.reader import BagReader
from gld_ros.mapping.policy_topics import POLICY_TOPICS
from gld_ros.mapping.targets import POLICIES, Policy


def bag_policy_topic(reader: BagReader, policy: Policy, wanted: str | None = None) -> str | None:
    """The topic that a policy follows in a bag: the requested one, or the only one of its type.

    Of several, the one whose last name is the node's (`path`) is used. None for policies that
    follow no topic. Raises ValueError that names the topics and policies that are possible.
    """
    topic = POLICY_TOPICS.get(policy)
    if topic is None:
        if wanted is not None:
            raise ValueError(
                f"policy {policy} follows no topic, but {wanted} was given; those with a topic: "
                f"{', '.join(POLICY_TOPICS)}"
            )
        return None
    found = [t.name for t in reader.topics_of_type(topic.type)]
    if wanted is not None:
        if wanted not in found:
            raise ValueError(
                f"policy {policy} follows a {topic.type}, and {wanted} of bag {reader.path} is "
                f"none; it has: {', '.join(found) or 'none'}"
            )
        return wanted
    if not found:
        raise ValueError(
            f"policy {policy} follows a {topic.type}, and bag {reader.path} has none; policies "
            f"that it can serve: {', '.join(served_policies(reader))}"
        )
    named = [name for name in found if name.rpartition("/")[2] == topic.name]
    chosen = found if len(found) == 1 else named
    if len(chosen) != 1:
        raise ValueError(
            f"policy {policy} follows one {topic.type}, and bag {reader.path} has "
            f"{', '.join(found)}; name one (--policy-topic)"
        )
    return chosen[0]


def served_policies(reader: BagReader) -> list[Policy]:
    """The policies that need no topic, or one of a type that the bag has."""
    return [
        policy
        for policy in POLICIES
        if policy != "none"
        and (policy not in POLICY_TOPICS or reader.topics_of_type(POLICY_TOPICS[policy].type))
    ]
