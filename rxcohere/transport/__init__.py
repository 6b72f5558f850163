"""From a request to events: the only part that talks HTTP.

One exchange is one request, retried only before its first event. `EventExchange` gives the events
of a stream in batches, one batch for each chunk that the socket hands over, and then one verdict;
`ReplyExchange` gives the non-streaming reply.
"""

from rxcohere.transport.exchange import EventExchange, Exchange, ReplyExchange
from rxcohere.transport.secret import Secret
from rxcohere.transport.session import Call, Transport

__all__ = ["Call", "EventExchange", "Exchange", "ReplyExchange", "Secret", "Transport"]
