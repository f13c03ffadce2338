"""A Flower Grid in this process: the same apps as in a deployment, without SuperLink, Ray or waiting."""

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedpoison.common.parallel import in_parallel
from fedpoison.engines import compat


class InProcessGrid(Grid):
    """Calls a ClientApp for each message, over threads; all replies are there when the push returns.

    Node i + 2 has `partition-id` i of `num-partitions` = `clients`. A client that raises answers with an error, as
    in Flower. `node_config`: more of it, the same for all. Its order of replies is that of the messages, but no
    strategy may count on that: in a simulation or a deployment they come in any.
    """

    def __init__(
        self,
        client: ClientApp,
        clients: int,
        *,
        node_config: Mapping[str, Any] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        compat.be_somebody()
        self._client, self._run, self._numbers = client, compat.empty_run(), count(1)
        self._replies: dict[str, Message] = {}
        self._contexts = {}
        for partition in range(clients):
            node = compat.SERVER + 1 + partition
            config = {**(node_config or {}), "partition-id": partition, "num-partitions": clients}
            self._contexts[node] = compat.context(node, config, run_config or {})

    @property
    def run(self) -> Any:
        """The run that messages belong to."""
        return self._run

    def set_run(self, run: Any) -> None:
        """Take another."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node, as Message() makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All clients' nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have every message answered; the ids to pull the replies by."""
        sent = list(messages)
        for message in sent:
            compat.number(message, str(next(self._numbers)))
        names = [message.metadata.message_id for message in sent]
        self._replies.update(zip(names, in_parallel(self._answer, sent), strict=True))
        return names

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._asked(message)
            if not isinstance(reply, Message):
                raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        except Exception as error:
            reply = compat.failure(message, error)
        compat.number(reply, f"{message.metadata.message_id}-reply")
        return reply

    def _asked(self, message: Message, tries: int = 5) -> Any:
        """What the client answers.

        NumPy parses the headers of arrays as Python, and before 3.11.8 CPython's parser fails at times where threads
        parse at once: the client is asked again then.
        """
        told = Message(content=copied(message.content), metadata=message.metadata)  # type: ignore[call-overload]
        try:
            return self._client(told, self._contexts[message.metadata.dst_node_id])
        except SystemError as error:
            if "recursion depth mismatch" not in str(error) or tries == 1:
                raise
            return self._asked(message, tries - 1)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, each once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | int | None = None) -> Iterable[Message]:
        """The replies to these messages; nobody is waited for, so `timeout` does not matter."""
        return self.pull_messages(self.push_messages(messages))


def copied(content: RecordDict) -> RecordDict:
    """The records again, in containers of their own: strategies send one RecordDict to all clients."""
    records: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = {key: Array(a.dtype, a.shape, a.stype, a.data) for key, a in record.items()}
            records[name] = ArrayRecord(arrays)
        else:
            kind = ConfigRecord if isinstance(record, ConfigRecord) else MetricRecord
            values: Any = {key: list(v) if isinstance(v, list) else v for key, v in record.items()}
            records[name] = kind(values)
    return RecordDict(records)
