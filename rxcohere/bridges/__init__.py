"""The ways out of Rx: asynchronous iteration, and asynchronous subscribers."""

from rxcohere.bridges.async_iterator import ObservableIterator, to_async_iterator
from rxcohere.bridges.async_subscriber import AsyncSubscription, subscribe_async
from rxcohere.bridges.handover import Overflow

__all__ = [
    "AsyncSubscription",
    "ObservableIterator",
    "Overflow",
    "subscribe_async",
    "to_async_iterator",
]
