"""The commands around a queue, on SQS (MiniStack) and on the embedded one: videos are submitted and waited for, a dead letter is
looked at, put back after the fix and completes, and a queue of replies is told of every end."""

import ast
import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

import cluster
import product
import services

WAIT_SECONDS_MAX = 120


class Commands(unittest.TestCase):
    """One service and one packed model for all."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-commands-")))
        cls.aws = cls.enterClassContext(services.MiniStack())
        cls.sqs = cls.aws.client("sqs")
        cls.clip = cls.place / "clip.mp4"
        street = product.ASSETS / "street.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", street, "-frames:v", "30", "-an", cls.clip], check=True)
        for name, model, labels in (("detector", "person_ssdlite_odapi.onnx", "person.txt"),
                                    ("talker", "nanodet_g_coco80.onnx", "coco80.txt")):
            product.packhorse("pack", product.ASSETS / model, "--store", cls.place / "store", "--name", name, "--task",
                              "object-detection", "--labels", product.ASSETS / labels)

    def setUp(self):
        self.name = self.id().rsplit(".", 1)[1][5:45]
        self.folder = self.place / self.name
        self.folder.mkdir()
        self.replies = self.sqs.create_queue(QueueName=f"{self.name}-replies")["QueueUrl"]
        self.environment = {**os.environ, **services.ENVIRONMENT, "AWS_ENDPOINT_URL": self.aws.url}

    def start(self, *arguments):
        """Starts a command."""
        command = [product.BINARY, *map(str, arguments)]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        return process

    def end(self, process, code=0):
        """What it printed by its end, which has to be this one."""
        out, err = process.communicate(timeout=WAIT_SECONDS_MAX)
        self.assertEqual(process.returncode, code, err)
        return product.json_lines(out)

    def run_(self, *arguments, code=0):
        """Runs a command to its end."""
        return self.end(self.start(*arguments), code)

    def work(self, queue, *arguments, code=0):
        """A worker that drains the queue."""
        line, = self.run_("work", "--queue", queue, "--store", self.place / "store", "--output", self.folder / "out",
                          "--spool", self.folder / "spool", "--mode", "drain-once", "--reply-to", self.replies, *arguments,
                          code=code)
        return line

    def told(self, count):
        """So many replies, each with its attributes."""
        replies, deadline = [], time.monotonic() + WAIT_SECONDS_MAX
        while len(replies) < count and time.monotonic() < deadline:
            found = self.sqs.receive_message(QueueUrl=self.replies, MaxNumberOfMessages=10, VisibilityTimeout=600,
                                             WaitTimeSeconds=1, MessageAttributeNames=["All"]).get("Messages", [])
            for message in found:
                attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
                replies.append((message["Body"], attributes))
        self.assertEqual(len(replies), count)
        return replies

    def counts(self, queue):
        """How many messages can be had at once, and how many are held."""
        counts = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        return tuple(int(counts[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible"))

    def check_redriven(self, queue):
        """From the submission of a good and a bad video to two good results."""
        bad = self.folder / "bad.mp4"
        bad.write_bytes(b"this is no video")
        submitted = self.start("submit", self.clip, bad, "--queue", queue, "--model", "detector", "--wait", "--output",
                               self.folder / "out")
        tasks = [json.loads(submitted.stdout.readline()) for _ in range(2)]
        good_id, bad_id = (task["id"] for task in tasks)
        self.assertEqual([task["state"] for task in tasks], ["queued", "queued"])
        self.assertEqual(self.work(queue, code=1), {"completed": 1, "dead": 1, "released": 0, "lost": 0})
        ended = self.end(submitted, code=1)
        # In the order in which they end.
        self.assertEqual({line["id"]: line["state"] for line in ended}, {good_id: "done", bad_id: "dead"})
        refused, = (line for line in ended if line["id"] == bad_id)
        again = self.run_("queue", "--queue", queue, "wait", bad_id, good_id, "--output", self.folder / "out", code=1)
        self.assertEqual([(line["id"], line["state"]) for line in again], [(bad_id, "dead"), (good_id, "done")])
        letter, = self.run_("queue", "--queue", queue, "dead")
        self.assertEqual((letter["id"], letter["input"], letter["reason"]), (bad_id, str(bad), refused["reason"]))
        counts, = self.run_("queue", "--queue", queue)
        self.assertEqual((counts["dead"], counts["visible"], counts["in_flight"], counts["delayed"]), (1, 0, 0, 0))

        # Nobody's id, then the fix.
        self.run_("queue", "--queue", queue, "redrive", "nobody", code=1)
        bad.write_bytes(self.clip.read_bytes())
        self.assertEqual(self.run_("queue", "--queue", queue, "redrive", bad_id), [{"redriven": 1}])
        self.assertEqual(self.run_("queue", "--queue", queue, "dead"), [])
        self.assertEqual(self.work(queue), {"completed": 1, "dead": 0, "released": 0, "lost": 0})
        lines = [(self.folder / "out" / task / "results.jsonl").read_bytes() for task in (good_id, bad_id)]
        self.assertEqual(lines[0], lines[1])
        self.assertFalse((self.folder / "out" / bad_id / "failed.json").exists())

        told = {}
        for body, attributes in self.told(3):
            reply = json.loads(body)
            self.assertEqual((attributes["packhorse.task"], attributes["packhorse.status"]), (reply["id"], reply["status"]))
            told.setdefault(reply["id"], {})[reply["status"]] = reply
        self.assertEqual({id: sorted(replies) for id, replies in told.items()}, {good_id: ["done"], bad_id: ["done", "failed"]})
        self.assertEqual(told[bad_id]["failed"]["reason"], letter["reason"])
        for task in (good_id, bad_id):
            done = told[task]["done"]
            summary = json.loads((pathlib.Path(done["results"]) / "summary.json").read_text())
            for field in ("frames", "detections", "classes", "outputs"):
                self.assertEqual(done[field], summary[field], field)

    def test_a_dead_letter_of_sqs_is_put_back_after_the_fix_and_completes(self):
        self.check_redriven(self.aws.queue(self.name)[0])

    def test_a_dead_letter_of_the_embedded_queue_is_put_back_after_the_fix_and_completes(self):
        self.check_redriven(self.folder / "queue.sqlite")

    def test_a_task_that_two_workers_have_at_once_comes_to_one_result(self):
        queue, dead_letters = self.aws.queue(self.name)
        short = self.folder / "short.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", self.clip, "-frames:v", "8", short], check=True)
        gate = self.enterContext(cluster.Gate(short.read_bytes()))
        self.addCleanup(gate.open.set)
        task, = self.run_("submit", f"{gate.url}/video.mp4", "--queue", queue, "--model", "detector")
        # The same task once more is another message, as is one that the service delivers while it is held.
        message, = self.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]
        self.sqs.send_message(QueueUrl=queue, MessageBody=message["Body"])
        command = ("work", "--queue", queue, "--store", self.place / "store", "--output", self.folder / "out",
                   "--visibility", "6", "--videos-max", "1", "--mode", "one-job", "--reply-to", self.replies)
        workers = [self.start(*command, "--spool", self.folder / f"spool{number}") for number in range(2)]
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self.counts(queue) != (0, 2):
            self.assertLess(time.monotonic(), deadline, f"of two there are {self.counts(queue)}")
            time.sleep(0.05)
        self.assertFalse((self.folder / "out" / task["id"] / "summary.json").exists())
        gate.open.set()
        ended = [line for worker in workers for line in self.end(worker)]
        # Whoever ends first may sweep away what the other has, who then leaves the message to the next.
        for end in ended:
            self.assertEqual((end["completed"] + end["lost"], end["dead"], end["released"]), (1, 0, 0))
        alone, = self.run_("submit", short, "--queue", queue, "--model", "detector")
        self.assertEqual(sum(end["completed"] for end in [*ended, self.work(queue)]), 3)
        self.assertEqual((self.counts(queue), self.counts(dead_letters)), ((0, 0), (0, 0)))
        # It is what a task has that was delivered once, and whoever completed it told the same.
        self.assertEqual({folder.name for folder in (self.folder / "out").iterdir()}, {task["id"], alone["id"]})
        folder, other = (self.folder / "out" / one["id"] for one in (task, alone))
        for one in (folder, other):
            files = sorted(path.name for path in one.iterdir())
            self.assertEqual(files, ["cost.json", "results.jsonl", "summary.json"])
        self.assertEqual((folder / "results.jsonl").read_bytes(), (other / "results.jsonl").read_bytes())
        told = [json.loads(body) for body, _ in self.told(3)]
        told = [reply for reply in told if reply["id"] == task["id"]]
        self.assertEqual(told, [told[0]] * 2)
        self.assertEqual(told[0]["outputs"], json.loads((folder / "summary.json").read_text())["outputs"])

    def test_the_old_text_is_cut_to_whole_frames_that_the_queue_takes(self):
        least = 17 * 1024
        self.sqs.set_queue_attributes(QueueUrl=self.replies, Attributes={"MaximumMessageSize": str(least)})
        queue = self.aws.queue(self.name)[0]
        task, = self.run_("submit", self.clip, "--queue", queue, "--model", "talker", "--threshold", "0.01", "--reply-form",
                          "text")
        self.work(queue)
        (body, attributes), = self.told(1)
        self.assertLessEqual(len(body.encode()), least)
        self.assertEqual((attributes["packhorse.task"], attributes["packhorse.status"]), (task["id"], "done"))
        frames = [ast.literal_eval(line) for line in body.splitlines()]
        lines = product.json_lines((self.folder / "out" / task["id"] / "results.jsonl").read_text())
        want = [[(one["label"], one["score"]) for one in line["detections"]] for line in lines]
        self.assertEqual(frames, want[:len(frames)])
        self.assertEqual(int(attributes.get("packhorse.frames-left-out", 0)), len(want) - len(frames))
        self.assertLess(len(frames), len(want), "it was to be cut")

    def test_what_a_body_does_not_say_the_worker_was_told(self):
        self.aws.client("s3").create_bucket(Bucket="videos")
        self.aws.client("s3").put_object(Bucket="videos", Key="clip.mp4", Body=self.clip.read_bytes())
        queue, _ = self.aws.queue(self.name)
        self.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"bucket": "videos", "object": "clip.mp4"}))
        self.work(queue, "--model", "detector", "--sample", "every:5", "--outputs", "coco,webvtt")
        task, = (self.folder / "out").iterdir()
        summary = json.loads((task / "summary.json").read_text())
        self.assertEqual((summary["frames"], summary["frames_looked"]), (30, 6))
        self.assertTrue((task / "coco.json").exists() and (task / "labels.vtt").exists())

    def test_a_bucket_that_is_none_is_refused_at_the_start_and_one_out_of_reach_is_told(self):
        arguments = ("work", "--queue", self.folder / "queue", "--store", self.place / "store", "--mode", "drain-once", "--output")
        worker = self.start(*arguments, "s3://nowhere/results")
        _, err = worker.communicate(timeout=WAIT_SECONDS_MAX)
        self.assertEqual(worker.returncode, 2, err)
        self.assertIn("s3://nowhere", err)
        self.assertIn("no such bucket", err)
        self.environment = {**self.environment, "AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": "",
                            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none",
                            "AWS_SHARED_CREDENTIALS_FILE": "/none"}
        worker = self.start(*arguments, "s3://somewhere/results")
        _, err = worker.communicate(timeout=WAIT_SECONDS_MAX)
        self.assertEqual(worker.returncode, 0, err)
        self.assertIn("output place s3://somewhere/results: ", err)
        self.assertIn("there are no AWS credentials", err)

    def test_queues_that_cannot_be_told_are_refused_at_the_start(self):
        queue = self.aws.queue(self.name)[0]
        for reply_to, says in ((queue, "queue of tasks"), ("queue.sqlite", "SQS only"), ("sqs://nowhere", "nowhere")):
            worker = self.start("work", "--queue", queue, "--store", self.place / "store", "--output", self.folder / "out",
                                "--reply-to", reply_to)
            _, err = worker.communicate(timeout=WAIT_SECONDS_MAX)
            self.assertEqual(worker.returncode, 2, err)
            self.assertIn(says, err)


if __name__ == "__main__":
    unittest.main()
