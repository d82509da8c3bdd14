"""Options for runners are checked before anything starts, and nothing is downloaded."""

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, JobServerOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from beam_jobs import pipeline
from beam_jobs.runners import local_runner, parse_options
from tfpipe.errors import TfpipeError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paralelism=2"], "the runner knows no --paralelism;"),
        (["FlinkRunner"], "the runner knows no FlinkRunner;"),
        (["-x"], "the runner knows no -x;"),
        (["--direct_num_workers=many"], "argument --direct_num_workers: invalid int value: 'many'"),
        (["--runner=FlinkRunner", "--parallelism=many"], "argument --parallelism: invalid int value"),
        (["--help"], "--help starts no job"),
        (["--runner=DataflowRunner", "--regoin=europe-west1"], "knows no --regoin;"),
        (
            ["--runner=FlinkRunner"],
            "needs --flink_job_server_jar=FILE or --job_endpoint=HOST:PORT; tfpipe downloads nothing",
        ),
        (["--runner", "flink", "--flink_master=here:8081"], "needs --flink_job_server_jar=FILE"),
        (["--runner=SparkRunner"], "needs --spark_job_server_jar=FILE or --job_endpoint"),
        (["--runner=PrismRunner"], "needs --prism_location=FILE; tfpipe downloads nothing"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=/no/such.jar"], "jar=/no/such.jar: no such file;"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=https://host/x.jar"], "no such file;"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message):
    with pytest.raises(TfpipeError) as caught:
        parse_options(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_java_is_said(tmp_path):
    (tmp_path / "server.jar").touch()
    arguments = ["--runner=FlinkRunner", f"--flink_job_server_jar={tmp_path / 'server.jar'}"]
    with pytest.raises(TfpipeError, match="no-java: no such program; the job server needs Java"):
        parse_options([*arguments, "--job_server_java_launcher=no-java"])
    options = parse_options([*arguments, "--job_server_java_launcher=true", "--job_server_jvm_properties=-Xmx99m"])
    assert options.view_as(JobServerOptions).job_server_jvm_properties[-1] == "-Xmx99m"


@pytest.mark.parametrize("name", ["", "DirectRunner", "directrunner", "direct", "FnApiRunner", "SwitchingDirectRunner"])
def test_every_local_name_is_the_in_process_runner(name):
    options = parse_options([f"--runner={name}"] if name else [])
    assert type(local_runner(options, workers=2)) is FnApiRunner


def test_a_job_server_says_which_options_it_knows():
    class Stub:
        """A job server's answer, without a job server; Beam's own client asks."""

        def DescribePipelineOptions(self, request, timeout):  # noqa: N802
            from apache_beam.portability.api import beam_job_api_pb2

            return beam_job_api_pb2.DescribePipelineOptionsResponse(
                options=[beam_job_api_pb2.PipelineOptionDescriptor(name="object_reuse")]
            )

    arguments = ["--runner=PortableRunner", "--job_endpoint=here:1", "--flink_master=there:2", "--object_reuse=true"]
    options = parse_options(arguments)
    assert local_runner(options, workers=2) is None
    sent = JobServiceHandle(Stub(), options).get_pipeline_options()
    assert sent["beam:option:object_reuse:v1"] == "true"
    assert options.view_as(FlinkRunnerOptions).flink_master == "there:2"
    with pytest.raises(TfpipeError, match="the runner knows no --object_reus;"):
        JobServiceHandle(Stub(), parse_options([*arguments, "--object_reus=true"])).get_pipeline_options()


def test_flink_jobs_have_names_of_their_own():
    arguments = ["--runner=FlinkRunner", "--job_endpoint=here:1", "--job_name=mine"]
    names = {parse_options(arguments).view_as(GoogleCloudOptions).job_name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("mine-") for name in names)


def test_the_message_of_a_java_program_is_shown_instead_of_its_stack_trace():
    text = (
        "Pipeline job failed: org.apache.spark.SparkException: Only one SparkContext should be running\n"
        "org.apache.spark.api.java.JavaSparkContext.<init>(JavaSparkContext.scala:58)\n"
        "\tat java.base/java.lang.Thread.run(Thread.java:840)\n\t... 12 more\n\n"
    )
    assert pipeline._last_line(RuntimeError(text)).endswith("SparkException: Only one SparkContext should be running")
    assert pipeline._last_line(RuntimeError("one (of two)\nno heap (yet)")) == "no heap (yet)"
    assert pipeline._last_line(RuntimeError("")) == "no message"
