import os
import sys

from . import SERVED
from .server import serve_http, serve_stdio

chosen = SERVED[sys.argv[1]](sys.argv[2] == "leaky")
if chosen.http:
    serve_http(chosen, int(os.environ["PORT"]))
else:
    serve_stdio(chosen)
