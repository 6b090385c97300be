"""Is a service well? One short HTTP request."""

import http.client
from base64 import b64encode
from urllib.parse import urlsplit


def problem(url: str, *, timeout: float = 2.0, login: tuple[str, str] | None = None) -> str | None:
    """What is wrong with the answer to GET `url`; None when it is 200."""
    parts = urlsplit(url)
    headers = {"Authorization": "Basic " + b64encode(":".join(login).encode()).decode()} if login else {}
    # Not through urllib: it would send this through a proxy that the environment names.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
        status = connection.getresponse().status
    except OSError as error:
        return f"does not answer on {parts.netloc} ({error.strerror or type(error).__name__})"
    except http.client.HTTPException as error:
        return f"answers something that is not HTTP on {parts.netloc} ({type(error).__name__})"
    finally:
        connection.close()
    return None if status == 200 else f"answers {status} to {parts.path}"
