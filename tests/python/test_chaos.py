"""Workers that are killed at random, on a queue and a store that fail at random, lose no video and invent none.

`CHAOS=full` (what `make chaos` sets) is the whole of it: 200 videos and 30 killed workers; else it is a fifth.
"""

import json
import os
import pathlib
import random
import subprocess
import tempfile
import time
import unittest

import cluster
import faults
import product
import services

FULL = os.environ.get("CHAOS") == "full"
VIDEOS, KILLS = (200, 30) if FULL else (40, 10)
POISON = VIDEOS // 10
SEED = int(os.environ.get("CHAOS_SEED", "7"))
FAULT_SHARE, STALL_SECONDS = 0.05, 2
SECONDS_MAX = 1800 if FULL else 420
MODEL = product.ASSETS / "person_ssdlite_odapi.onnx"

# (ending, arguments of the encoder)
KINDS = [("mp4", "-c:v libx264 -preset veryfast -bf 2"), ("mp4", "-c:v libx264 -profile:v baseline -g 8"),
         ("mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
         ("webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8"), ("avi", "-c:v mpeg4 -g 12"),
         ("ts", "-c:v mpeg2video -g 12"), ("mov", "-c:v mjpeg -q:v 4")]


def make_videos(place, chance):
    """Good and bad videos in `place`; the names of either, without endings."""
    street, good, bad = product.ASSETS / "street.mp4", [], []
    made = []
    for ending, arguments in KINDS:
        for length in (12, 30):
            path = place / f"kind{len(made)}.{ending}"
            subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-ss", str(2 + len(made)), "-i", street, "-frames:v",
                            str(length), "-vf", "scale=320:-2", "-an", *arguments.split(), path], check=True)
            made.append(path)
    whole = [path.read_bytes() for path in made]
    poison = [b"", b"this is no video", whole[0][:len(whole[0]) // 2], bytes(chance.randbytes(50_000)),
              b"#EXTM3U\nfile:///etc/passwd\n"]
    for number in range(VIDEOS):
        if number < POISON:
            name, content = f"bad{number:03}.mp4", poison[number % len(poison)]
            bad.append(name)
        else:
            kind = number % len(made)
            name, content = f"good{number:03}{made[kind].suffix}", whole[kind]
            good.append(name)
        (place / "all").mkdir(exist_ok=True)
        (place / "all" / name).write_bytes(content)
    return good, bad


class Workers:
    """A worker in each of some pods, of which some are killed."""

    def __init__(self, command, environments, log):
        self.command, self.environments, self.log = command, environments, log
        self.running = {}

    def keep(self):
        """Starts what does not run. None of them ends by itself."""
        ended = [worker.poll() for worker in self.running.values() if worker.poll() is not None]
        if ended:
            raise AssertionError(f"a worker ended by itself with {ended}")
        for pod, environment in self.environments.items():
            if pod not in self.running:
                self.running[pod] = subprocess.Popen([*self.command, "--mode", "serve"], env=environment,
                                                     stdout=subprocess.DEVNULL, stderr=self.log)

    def kill(self, chance):
        """kill -9 of one of them."""
        worker = self.running.pop(chance.choice(sorted(self.running)))
        worker.kill()
        worker.wait()

    def stop(self):
        """Asks all to end, and says how they did."""
        for worker in self.running.values():
            worker.terminate()
        return [worker.wait(60) for worker in self.running.values()]


class Chaos(unittest.TestCase):
    """One long story."""

    def setUp(self):
        self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-chaos-")))
        self.chance = random.Random(SEED)
        self.good, self.bad = make_videos(self.place, self.chance)
        self.store = self.place / "store"
        product.packhorse("pack", MODEL, "--store", self.store, "--name", "detector", "--task", "object-detection",
                          "--labels", product.ASSETS / "person.txt")

    def undisturbed(self):
        """What a run in folders, with nothing in its way, makes of the good ones: name to (summary, lines)."""
        queue, output = self.place / "queue.db", self.place / "undisturbed"
        videos = [self.place / "all" / name for name in self.good]
        tasks = product.json_lines(product.packhorse("submit", *videos, "--queue", queue, "--model", "detector"))
        product.packhorse("work", "--queue", queue, "--store", self.store, "--output", output, "--mode", "drain-once")
        return {pathlib.Path(task["input"]).name: self.result(output / task["id"]) for task in tasks}

    @staticmethod
    def result(folder):
        """Summary and lines, without what two places of one video differ in."""
        summary = json.loads((folder / "summary.json").read_text())
        del summary["task"], summary["input"]["path"]
        return summary, (folder / "results.jsonl").read_bytes()

    def test_no_video_is_lost_and_none_is_worked_wrongly(self):
        undisturbed = self.undisturbed()
        aws = self.enterContext(services.MiniStack())
        sqs, s3 = aws.client("sqs"), aws.client("s3")
        url, dead_url = aws.queue("videos", 100)
        s3.create_bucket(Bucket="bucket")
        for name in self.good + self.bad:
            s3.put_object(Bucket="bucket", Key=f"in/{name}", Body=(self.place / "all" / name).read_bytes())

        network = self.enterContext(faults.Faults(aws.address, FAULT_SHARE, STALL_SECONDS, SEED))
        environment = {**os.environ, **services.ENVIRONMENT, "AWS_ENDPOINT_URL": network.url}
        submitted = subprocess.run(
            [product.BINARY, "submit", "s3://bucket/in/", "--queue", url, "--model", "detector"],
            env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(submitted.returncode, 0, submitted.stderr)
        tasks = {task["id"]: task["input"].rsplit("/", 1)[1] for task in product.json_lines(submitted.stdout)}
        self.assertEqual(sorted(tasks.values()), sorted(self.good + self.bad))
        api = self.enterContext(cluster.ApiServer(self.place / "account"))
        # One reads every video where it is, the other fetches all of them whole.
        whole = {"worker-0": "0", "worker-1": "1000000000"}
        self.work({pod: {**environment, **api.environment(pod), "PACKHORSE_SPOOL_WHOLE": most}
                   for pod, most in whole.items()}, url)

        print(f"{VIDEOS} videos, {KILLS} workers killed, requests: {network.counts}", flush=True)
        self.check_results(s3, tasks, undisturbed)
        self.check_dead(sqs, url, dead_url, tasks)
        self.check_nothing_left(sqs, s3, url)
        self.assertEqual([api.annotations(pod) for pod in api.pods], [{}, {}])
        self.assertTrue(all(len(history) > 2 for history in api.pods.values()), "nothing was ever protected")

    def work(self, environments, url):
        """Kills so many workers, spread over the work, then lets the rest drain the queue."""
        log = open(self.place / "workers.log", "w+", encoding="utf-8")
        self.addCleanup(log.close)
        command = [product.BINARY, "work", "--queue", url, "--store", self.store, "--output", "s3://bucket/out",
                   "--spool", self.place / "spool", "--visibility", "6", "--checkpoint", "0.2", "--receives-max", "99"]
        command = [str(part) for part in command]
        workers, deadline = Workers(command, environments, log), time.monotonic() + SECONDS_MAX
        self.addCleanup(lambda: [worker.kill() for worker in workers.running.values()])
        for _ in range(KILLS):
            workers.keep()
            time.sleep(self.chance.uniform(0.3, 2.5))
            workers.kill(self.chance)
        # 1 says that there were dead letters.
        self.assertLessEqual(set(workers.stop()), {0, 1}, self.told(log))
        # In each pod, whose last worker may have been killed.
        last = [subprocess.Popen([*command, "--mode", "drain-once"], env=environment, stdout=log, stderr=log)
                for environment in environments.values()]
        self.addCleanup(lambda: [worker.kill() for worker in last])
        for worker in last:
            self.assertIn(worker.wait(max(1, deadline - time.monotonic())), (0, 1), self.told(log))

    @staticmethod
    def told(log):
        """The end of what the workers told."""
        log.flush()
        log.seek(0)
        return log.read()[-5000:]

    def check_results(self, s3, tasks, undisturbed):
        """Every good video has one result, which is the undisturbed run's; a bad one has none."""
        listed = [object["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="out/")
                  for object in page.get("Contents", [])]
        of_task = {}
        for key in listed:
            _, task, name = key.split("/", 2)
            of_task.setdefault(task, []).append(name)
        self.assertEqual(sorted(of_task), sorted(tasks))
        for task, files in of_task.items():
            name = tasks[task]
            if name in self.bad:
                self.assertEqual(files, ["failed.json"], name)
                continue
            self.assertEqual(sorted(files), ["cost.json", "results.jsonl", "summary.json"], name)
            folder = self.place / "compared" / task
            folder.mkdir(parents=True)
            for file in files:
                body = s3.get_object(Bucket="bucket", Key=f"out/{task}/{file}")["Body"].read()
                (folder / file).write_bytes(body)
            self.assertEqual(self.result(folder), undisturbed[name], name)

    def check_dead(self, sqs, url, dead_url, tasks):
        """Every bad video is a dead letter that says why, and no good one is."""
        letters = []
        while found := sqs.receive_message(QueueUrl=dead_url, MaxNumberOfMessages=10, VisibilityTimeout=600,
                                           MessageAttributeNames=["All"]).get("Messages"):
            letters += found
        names = {tasks[json.loads(letter["Body"])["id"]] for letter in letters}
        self.assertEqual(sorted(names), sorted(self.bad))
        for letter in letters:
            self.assertGreater(len(letter["MessageAttributes"]["packhorse.reason"]["StringValue"]), 10)
        self.assertNotEqual(url, dead_url)

    def check_nothing_left(self, sqs, s3, url):
        """Nothing in flight, half uploaded, or spooled."""
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        for name in ("", "NotVisible", "Delayed"):
            self.assertEqual(counts[f"ApproximateNumberOfMessages{name}"], "0", name)
        self.assertFalse(s3.list_multipart_uploads(Bucket="bucket").get("Uploads"))
        left = [path for path in (self.place / "spool").rglob("*") if path.is_file() and path.name != ".lock"]
        self.assertEqual(left, [])


if __name__ == "__main__":
    unittest.main()
