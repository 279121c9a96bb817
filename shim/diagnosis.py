"""What may be said of an exception whose message must not be logged."""


def place_of(error: BaseException) -> str:
    """The error's type and where it arose. Its message might quote a URL, and with it a digest."""
    if isinstance(error, BaseExceptionGroup):
        return place_of(error.exceptions[0])
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"
    return type(error).__name__ + where
