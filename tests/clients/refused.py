"""Are a refusal and the order behind it answered, as http.client (argument: standard) or requests (argument: requests) see it?"""

import http.client
import os
import sys
import urllib.parse

import requests

GATEWAY, TOKEN, ORDER = (os.environ[name] for name in ("GATEWAY", "TOKEN", "ORDER"))
ROUNDS = 100
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATH = "/package/orderPackage"
REFUSED = [
    (401, PATH, JSON),
    (403, PATH, JSON | BEARER | {"Origin": "http://evil.example"}),
    (404, "/package/unlisted", JSON | BEARER),
    (415, PATH, {"Content-Type": "text/plain"} | BEARER),
]
SIZES = [2, 9_000, 100_000, 1_000_000, 3_000_000]


def standard():
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(GATEWAY).netloc, timeout=10)

    def post(path, headers, body):
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            connection.close()
            return None

    return post


def pooled():
    session = requests.Session()

    def post(path, headers, body):
        try:
            # Of what it iterates over it does not know the length: it sends chunks.
            return session.post(GATEWAY + path, headers=headers, data=iter([body]), timeout=10).status_code
        except requests.RequestException:
            return None

    return post


post = standard() if sys.argv[1] == "standard" else pooled()
refusals = orders = 0
for number in range(ROUNDS):
    status, path, headers = REFUSED[number % len(REFUSED)]
    refusals += post(path, headers, b" " * SIZES[number % len(SIZES)]) != status
    orders += post(PATH, JSON | BEARER, ORDER.encode()) != 200
print(f"of {ROUNDS}, refusals lost: {refusals}, orders lost: {orders}")
sys.exit(bool(refusals or orders))
