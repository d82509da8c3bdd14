"""The warm-up requests of an exported model."""

from serving.protocol import protos
from serving.protocol.names import SIGNATURES, WARMUP_FILE, WAV_SIGNATURES
from tfpipe.data.records import read_records


def test_every_signature_is_warmed_up_with_one_row_and_with_a_full_batch(exported):
    records = list(read_records(exported.path / WARMUP_FILE))
    requests = [protos.PredictionLog.FromString(record).predict_log.request for record in records]
    rows: dict[str, list[int]] = {name: [] for name in SIGNATURES}
    for request in requests:
        sizes = {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()}
        assert set(request.inputs) == set(SIGNATURES[request.model_spec.signature_name].inputs)
        rows[request.model_spec.signature_name] += sizes
    makes_audio = ("decode_audio", *WAV_SIGNATURES)
    assert rows == {name: [1, 4 if name in makes_audio else 32] for name in SIGNATURES}
