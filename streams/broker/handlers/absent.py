"""What this broker has not, refused by name with errors that clients take as final: transactions, the newer groups.

Clients send again what is refused for now, and wait for ever for what is not answered; `transactional_id_authorization_
failed` ends a transactional producer of every client, and `unsupported_version` a consumer of KIP-848.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.core import Caller, Core
from streams.broker.protocol import NO_TIME, Fields

_LOG: Final = logging.getLogger(__name__)
NO_TRANSACTIONS: Final = "this broker has no transactions: leave transactional.id out, or use Apache Kafka"
NO_NEW_GROUPS: Final = "this broker has no group.protocol=consumer: set group.protocol=classic"
FOR_TRANSACTIONS: Final = ErrorCode.transactional_id_authorization_failed


def named(caller: Caller, why: str) -> None:
    """Tells the operator, since few clients show what the broker says."""
    _LOG.warning("%s at %s: %s", caller.client_id or "a client", caller.host, why)


def transaction(_core: Core, caller: Caller, request: Any) -> Fields:
    """AddPartitionsToTxn, AddOffsetsToTxn, EndTxn and TxnOffsetCommit: the same error for everything named in them."""
    named(caller, NO_TRANSACTIONS)
    topics = [
        {"name": topic.name, "partitions": [_partition(number) for number in topic.partitions]}
        for topic in getattr(request, "topics", getattr(request, "v3_and_below_topics", ()))
    ]
    results = [{"name": each["name"], "results_by_partition": each["partitions"]} for each in topics]
    return {"error_code": FOR_TRANSACTIONS, "topics": topics, "results_by_topic_v3_and_below": results}


def _partition(asked: Any) -> Fields:
    number = getattr(asked, "partition_index", asked)
    return {"partition_index": number, "error_code": FOR_TRANSACTIONS, "partition_error_code": FOR_TRANSACTIONS}


def new_group(_core: Core, caller: Caller, _request: Any) -> Fields:
    """ConsumerGroupHeartbeat, the first request of a member of a newer group."""
    named(caller, NO_NEW_GROUPS)
    none = {"member_id": None, "member_epoch": -1, "heartbeat_interval": NO_TIME, "assignment": None}
    return {"error_code": ErrorCode.unsupported_version, "error_message": NO_NEW_GROUPS} | none
