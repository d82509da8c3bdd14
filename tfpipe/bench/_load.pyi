"""The compiled module of `tfpipe/bench/native`: a load generator that costs little processor time."""

from collections.abc import Sequence

__all__ = ["load"]

def load(address: str, path: str, requests: Sequence[bytes], *, times: int, answer_bytes: int) -> int:
    """Sends each request `times` times over one connection: the requests side by side, the repeats one by one.

    Args:
        address: `HOST:PORT` of the server.
        path: gRPC method, such as `/tensorflow.serving.PredictionService/Predict`.
        requests: serialised messages of at most 16 KiB each.
        times: how often each is sent.
        answer_bytes: length of every answer's message. Nothing else of an answer is checked.

    Returns:
        The number of answers.

    Raises:
        ConnectionError: the connection breaks, or an answer has another length, for example because it is an error.
    """
