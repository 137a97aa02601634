"""The wire calls of the two systems replaced, made again with the standard library alone.

The packing system's load clients ask `GET /predictions/modelN`, one model after the other, at random, or from two threads
for each server without a pause, with a question in the query or with none. The video system's worker sends decoded frames
to the model server beside it as nested integers, and writes a line of labels and scores for each.
"""

import http.client
import json
import queue
import random
import threading
import urllib.parse

SECONDS_MAX = 60
# Two threads for each server, as the packing system's benchmark has it.
THREADS = 2


class Packing:
    """Clients of the server at `address`, HOST:PORT, that has so many `models`."""

    def __init__(self, address, models):
        self.address, self.models = address, models

    def ask(self, model, question=None, context=None, connection=None):
        """The answer's text; raises with the server's words for any status but 200."""
        query = "" if question is None else "?" + urllib.parse.urlencode({"seq_0": question, "seq_1": context})
        own = connection or http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
        own.request("GET", f"/predictions/{model}{query}")
        answer = own.getresponse()
        body = answer.read()
        if connection is None:
            own.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {body.decode()}")
        return json.loads(body)["detail"]

    def healthy(self):
        """Whether the server says so at its root."""
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status == 200 and json.load(answer) == {"Status": "Healthy"}

    def sequential(self, *asked):
        """The answers of all models, one after the other, each on a connection of its own."""
        return [self.ask(f"model{number}", *asked) for number in range(self.models)]

    def randomly(self, requests, *asked, seed=1):
        """The same from models at random: pairs of a model's number and its answer."""
        numbers = random.Random(seed).choices(range(self.models), k=requests)
        return [(number, self.ask(f"model{number}", *asked)) for number in numbers]

    def benchmark(self, requests, *asked):
        """The same in a closed loop from threads that keep their connections."""
        todo, done = queue.SimpleQueue(), queue.SimpleQueue()
        for number in range(requests):
            todo.put(number % self.models)

        def loop():
            connection = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
            while True:
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return connection.close()
                try:
                    done.put((number, self.ask(f"model{number}", *asked, connection=connection)))
                except (OSError, ValueError, http.client.HTTPException) as error:
                    done.put((number, error))

        threads = [threading.Thread(target=loop) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [done.get_nowait() for _ in range(done.qsize())]


class Video:
    """The worker beside the model server at `address`; `labels` are names by class."""

    def __init__(self, address, labels):
        self.address, self.labels = address, labels

    def predictions(self, frames):
        """What the server says of frames, each u8 [height, width, 3], all of one request."""
        body = json.dumps({"instances": [frame.tolist() for frame in frames]})
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS_MAX)
        connection.request("POST", "/v1/models/default:predict", body)
        answer = connection.getresponse()
        told = json.load(answer)
        connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {told}")
        return told["predictions"]

    def lines(self, frames):
        """A line of text for each frame: its (label, score) pairs, as the server orders them."""
        lines = []
        for told in self.predictions(frames):
            count = int(told["num_detections"])
            classes, scores = told["detection_classes"][:count], told["detection_scores"][:count]
            lines.append(str([(self.labels[int(number)], score) for number, score in zip(classes, scores)]))
        return lines
