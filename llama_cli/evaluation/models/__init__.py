"""What answers the requests of an evaluation: each is a function from Requests to Responses.

    local    a checkpoint of ours, or a directory in Meta's or Hugging Face's layout
    openai   an endpoint that speaks OpenAI's completions
    command  a program that reads Requests and writes Responses, one JSON line each

`answering` is what they share: requests are answered in groups, in order; what was answered
before is taken from the cache (`store`); and of several processes each answers its groups.
"""

from collections.abc import Callable, Iterable, Iterator

from llama_cli.evaluation.request import Request, Response

Model = Callable[[Iterable[Request]], Iterator[Response]]  # responses in the requests' order


def read_request(line: bytes) -> Request:
    """Read a line that any of them can answer.

    Raises:
        ValueError: it is no request, or it asks for nothing that there is.
    """
    request = Request.from_json(line)
    if request.kind == "complete" and not _can_be_completed(request):
        raise ValueError(
            "to complete, a request has a prompt, max_tokens and samples from 1 on, "
            "temperature from 0 on, top_p from 0 to 1, and stops that are not empty"
        )
    return request


def _can_be_completed(request: Request) -> bool:
    numbers = (request.max_tokens, request.samples, request.seed)
    return (
        isinstance(request.prompt, str)
        and all(type(number) is int for number in numbers)
        and min(numbers[:2]) >= 1
        and all(isinstance(x, int | float) for x in (request.temperature, request.top_p))
        and request.temperature >= 0
        and 0 <= request.top_p <= 1
        and all(isinstance(stop, str) and stop for stop in request.stop)
    )
