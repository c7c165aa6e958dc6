"""What a written page holds: its content, and the numbers of its views."""

import base64
import json
import re

import numpy as np


def payload_of(path):
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def column(view, name):
    return decode(view["table"]["columns"][name])


def curve(view):
    return decode(view["table"]["curve"])


def decode(encoded):
    types = {"float32": "<f4", "uint32": "<u4", "uint16": "<u2", "uint8": "<u1"}
    return np.frombuffer(base64.b64decode(encoded["data"]), types[encoded["kind"]])
