"""A busy worker is left alone by whoever scales, and only while it is busy; told that its machine goes, it gives back what
it holds."""

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
# Of the two minutes between a Spot notice and its machine's end, this much is for the task; the rest is for who gets it next.
GIVEN_BACK_SECONDS_MAX = 10
PROTECTED = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
             "controller.kubernetes.io/pod-deletion-cost": "1000"}
NOTICE = '{"action": "terminate", "time": "2026-01-02T03:04:05Z"}'


def eventually(what, worker, look):
    """Looks until there is something to see of a worker that runs."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (seen := look()):
        if worker.poll() is not None and not look():
            raise AssertionError(f"{what}: the worker ended before with {worker.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {WAIT_SECONDS_MAX} s")
        time.sleep(0.05)
    return seen


class Protection(unittest.TestCase):
    """One set of services and one packed model for all."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-protection-")))
        cls.moto = cls.enterClassContext(services.Moto())
        cls.clip = cls.place / "clip.mp4"
        street = product.ASSETS / "street.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", street, "-frames:v", "10", "-an", cls.clip], check=True)
        product.packhorse("pack", product.ASSETS / "person_ssdlite_odapi.onnx", "--store", cls.place / "store", "--name",
                          "detector", "--task", "object-detection", "--labels", product.ASSETS / "person.txt")

    def setUp(self):
        name = self.id().rsplit(".", 1)[1]
        self.folder = self.place / name
        self.folder.mkdir()
        self.url, _ = self.moto.queue(name[:60])
        self.sqs = self.moto.client("sqs")
        self.gate = self.enterContext(cluster.Gate(self.clip.read_bytes()))
        self.addCleanup(self.gate.open.set)
        self.log = self.enterContext(open(self.folder / "log", "w+", encoding="utf-8"))
        self.environment = {**os.environ, **services.ENVIRONMENT, "AWS_ENDPOINT_URL": self.moto.url}

    def submit(self, video):
        """Puts a task into the queue, and gives its id."""
        done = subprocess.run([product.BINARY, "submit", str(video), "--queue", self.url, "--model", "detector"],
                              env=self.environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return product.json_lines(done.stdout)[0]["id"]

    def submit_gated(self):
        """A video that keeps its worker busy until the gate is opened."""
        return self.submit(f"{self.gate.url}/video.mp4")

    def start(self, *arguments, output=None, **variables):
        """Starts a worker, whose lease would hide its task for an hour."""
        command = [product.BINARY, "work", "--queue", self.url, "--store", self.place / "store", "--output",
                   output or self.folder / "out", "--spool", self.folder / "spool", "--visibility", "3600", *arguments]
        worker = subprocess.Popen([str(part) for part in command], env={**self.environment, **variables},
                                  stdout=subprocess.DEVNULL, stderr=self.log)
        self.addCleanup(lambda: (worker.kill(), worker.wait()))
        return worker

    def end(self, worker):
        """Waits until it has ended, which has to be well."""
        code = worker.wait(WAIT_SECONDS_MAX)
        self.log.flush()
        self.assertEqual(code, 0, (self.folder / "log").read_text()[-3000:])

    def counts(self):
        """How many tasks can be had at once, and how many are held."""
        counts = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return tuple(int(counts[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible"))

    def is_waiting(self):
        """Whether the task can be had at once."""
        return self.counts() == (1, 0)

    def is_held(self):
        """Whether somebody has the task."""
        return self.counts() == (0, 1)

    def done(self, task):
        """Whether its results are whole."""
        return (self.folder / "out" / task / "summary.json").exists()

    def test_a_spot_notice_gives_back_the_task_and_ends_the_worker(self):
        long = self.folder / "long.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-stream_loop", "20", "-i", product.ASSETS / "street.mp4",
                        "-c", "copy", "-an", long], check=True)
        with cluster.Metadata() as metadata:
            task = self.submit(long)
            worker = self.start("--notices", "spot,rebalance,scale-in", "--checkpoint", "0.3",
                                AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url)
            parts = self.folder / "out" / task / "parts"
            eventually("parts", worker, lambda: parts.exists() and any(parts.iterdir()) and metadata.asked > 3)
            self.assertIsNone(worker.poll())
            metadata.tell("spot/instance-action", NOTICE)
            told = time.monotonic()
            eventually("the task is given back", worker, self.is_waiting)
            self.assertLess(time.monotonic() - told, GIVEN_BACK_SECONDS_MAX)
            self.end(worker)
        self.assertTrue(self.is_waiting())
        self.assertTrue(any(parts.iterdir()))
        self.assertFalse(self.done(task))
        self.assertIn("wanted back (terminate, 2026-01-02T03:04:05Z)", (self.folder / "log").read_text())

    def test_a_metadata_service_with_nothing_to_tell_or_none_at_all_is_harmless(self):
        with cluster.Metadata() as gone:
            dead = gone.url
        with cluster.Metadata(**{"autoscaling/target-lifecycle-state": "InService"}) as metadata:
            for url in (metadata.url, dead):
                task = self.submit(self.clip)
                self.end(self.start("--notices", "spot,rebalance,scale-in", "--mode", "drain-once",
                                    AWS_EC2_METADATA_SERVICE_ENDPOINT=url))
                self.assertTrue(self.done(task))
            self.assertGreater(metadata.asked, 0)

    def test_a_pod_is_annotated_while_its_worker_is_busy_and_only_then(self):
        with cluster.ApiServer(self.folder / "account") as api:
            environment = api.environment("worker-0")
            task = self.submit_gated()
            worker = self.start(**environment)
            eventually("protection", worker, lambda: api.annotations("worker-0") == PROTECTED)
            # Asked to stop, with a token that is another by now.
            api.replace_token("second")
            worker.terminate()
            self.end(worker)
            self.assertEqual(api.annotations("worker-0"), {})
            self.assertTrue(self.is_waiting())
            # Killed, it takes nothing away; whoever comes next in the pod does, before it is busy itself.
            # It looks for no other: what it finds after its end would stay hidden.
            killed = self.start("--videos-max", "1", **environment)
            eventually("protection", killed, lambda: api.annotations("worker-0") == PROTECTED)
            killed.kill()
            killed.wait()
            self.sqs.purge_queue(QueueUrl=self.url)
            self.end(self.start("--mode", "one-job", **environment))
            self.assertEqual(api.annotations("worker-0"), {})
            self.assertFalse(self.done(task))
            # The task that ends, in every mode.
            self.gate.open.set()
            for mode in ("one-job", "drain-once", "serve"):
                before, task = len(api.pods["worker-0"]), self.submit_gated()
                worker = self.start("--mode", mode, **environment)
                eventually(mode, worker, lambda task=task: self.done(task))
                if mode == "serve":
                    eventually("the end of protection", worker, lambda: api.annotations("worker-0") == {}
                               and PROTECTED in api.pods["worker-0"][before:])
                    worker.terminate()
                self.end(worker)
                self.assertEqual(api.annotations("worker-0"), {}, mode)
                self.assertIn(PROTECTED, api.pods["worker-0"][before:], mode)
            self.assertEqual(api.refused, [])

    def test_a_busy_worker_keeps_its_instance_when_the_group_shrinks(self):
        scaling, ec2 = self.moto.client("autoscaling"), self.moto.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        scaling.create_launch_configuration(LaunchConfigurationName="worker", ImageId=image, InstanceType="t2.micro")
        scaling.create_auto_scaling_group(AutoScalingGroupName="workers", LaunchConfigurationName="worker", MinSize=0,
                                          MaxSize=4, DesiredCapacity=4, AvailabilityZones=["us-east-1a"])

        def instances():
            group, = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=["workers"])["AutoScalingGroups"]
            return {one["InstanceId"]: one["ProtectedFromScaleIn"] for one in group["Instances"]}

        # The one that would go first, as it is the first.
        mine = next(iter(instances()))
        with cluster.Metadata(**{"instance-id": mine, "tags/instance/aws:autoscaling:groupName": "workers"}) as metadata:
            task = self.submit_gated()
            worker = self.start("--protect", "instance", AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url)
            eventually("protection", worker, lambda: instances()[mine])
            scaling.set_desired_capacity(AutoScalingGroupName="workers", DesiredCapacity=1)
            self.assertEqual(instances(), {mine: True})
            self.gate.open.set()
            eventually("the result", worker, lambda: self.done(task))
            eventually("the end of protection", worker, lambda: not instances()[mine])
            worker.terminate()
            self.end(worker)
        scaling.set_desired_capacity(AutoScalingGroupName="workers", DesiredCapacity=0)
        self.assertEqual(instances(), {})

    def test_a_group_that_takes_the_instance_out_is_told_when_nothing_is_held_any_more(self):
        ministack = self.enterContext(services.MiniStack())
        scaling = ministack.client("autoscaling")
        scaling.put_lifecycle_hook(AutoScalingGroupName="workers", LifecycleHookName="drained",
                                   LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING")
        forms = []

        def asked(form):
            forms.append((form, self.is_waiting()))

        with (cluster.Metadata(**{"instance-id": "i-0123", "tags/instance/aws:autoscaling:groupName": "workers",
                                  "autoscaling/target-lifecycle-state": "InService"}) as metadata,
              cluster.Between(ministack.address, asked) as between):
            def start():
                return self.start("--lifecycle-hook", "drained", "--videos-max", "1",
                                  AWS_ENDPOINT_URL_AUTO_SCALING=between.url,
                                  AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url)

            self.submit_gated()
            # Asked to stop while its instance stays: whoever restarts it does not want the instance to go.
            worker = start()
            eventually("the task", worker, self.is_held)
            worker.terminate()
            self.end(worker)
            self.assertEqual(forms, [])
            worker = start()
            eventually("the task", worker, self.is_held)
            metadata.tell("autoscaling/target-lifecycle-state", "Terminated")
            self.end(worker)
        (form, was_waiting), = forms
        self.assertTrue(was_waiting, "the task was given back before")
        self.assertEqual({name: form.pop(name) for name in ("Action", "Version")},
                         {"Action": "CompleteLifecycleAction", "Version": scaling.meta.service_model.api_version})
        self.assertEqual(form, {"AutoScalingGroupName": "workers", "LifecycleHookName": "drained",
                                "InstanceId": "i-0123", "LifecycleActionResult": "CONTINUE"})
        shape = scaling.meta.service_model.operation_model("CompleteLifecycleAction").input_shape
        self.assertLessEqual(set(shape.required_members), set(form))
        self.assertIn("the group was told", (self.folder / "log").read_text())

    def test_a_store_that_does_not_answer_keeps_no_task_of_a_worker_that_is_asked_to_stop(self):
        with cluster.Silent() as store:
            self.submit(self.clip)
            worker = self.start(output="s3://results/videos", AWS_ENDPOINT_URL_S3=store.url)
            # It looks at the place before it takes a task, and does not wait for ever.
            eventually("a question to the store", worker, store.asked.is_set)
            eventually("the task is held", worker, self.is_held)
            worker.terminate()
            # As long as Kubernetes gives, and half as long as an answer is waited for otherwise.
            worker.wait(30)
            self.end(worker)
            self.assertTrue(self.is_waiting())

    def test_what_cannot_be_asked_for_is_told_at_the_start(self):
        for code, arguments, says in ((2, ("--protect", "pod"), "this is no pod"),
                                      (1, ("--protect", "instance", "--instance", "i-1"), "--scaling-group")):
            worker = self.start(*arguments, AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9")
            self.assertEqual(worker.wait(WAIT_SECONDS_MAX), code)
            self.assertIn(says, (self.folder / "log").read_text())


if __name__ == "__main__":
    unittest.main()
