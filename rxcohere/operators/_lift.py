"""How a fold becomes an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from reactivex import Observable, abc

from rxcohere.folds import Fold

A = TypeVar("A")
B = TypeVar("B")

Operator: TypeAlias = Callable[[Observable[A]], Observable[B]]
"""What ``pipe`` takes: an observable in, an observable out."""


def lift(make_fold: Callable[[], Fold[A, B]]) -> Operator[A, B]:
    """The operator that runs a fold of its own for each subscription.

    Completion brings out what the fold still holds, then completes; an error passes at once, and an
    error of the fold itself becomes ``on_error``.
    """

    def operator(source: Observable[A]) -> Observable[B]:
        def subscribe(
            observer: abc.ObserverBase[B], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            fold = make_fold()
            push = fold.push
            emit = observer.on_next

            def on_next(event: A) -> None:
                try:
                    values = push(event)
                except Exception as error:
                    observer.on_error(error)
                    return
                for value in values:
                    emit(value)

            def on_completed() -> None:
                try:
                    values = fold.finish()
                except Exception as error:
                    observer.on_error(error)
                    return
                for value in values:
                    emit(value)
                observer.on_completed()

            return source.subscribe(on_next, observer.on_error, on_completed, scheduler=scheduler)

        return Observable(subscribe)

    return operator
