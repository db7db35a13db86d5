"""How workers combine what each learnt: one file a way, all measured by the same meter."""

from mariana_asr.engine.exchange.exchange import Alone, Exchange
from mariana_asr.engine.exchange.make import make_exchange
from mariana_asr.engine.exchange.meter import ExchangeFigures, ExchangeMeter

__all__ = ["Alone", "Exchange", "ExchangeFigures", "ExchangeMeter", "make_exchange"]
