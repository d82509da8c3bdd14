// A client in Go of a model that `tfpipe serve` (or TensorFlow Serving) serves: it speaks gRPC and writes a WAV file.
//
// Start the server, then draw a new sound, or send a recording (16-bit PCM WAV) through the model and back:
//
//	tfpipe serve --model_base_path work/models/vae --port 8500
//
//	cd examples/go
//	go run . -label Piano -seed 1 -out piano.wav
//	go run . -recording song.wav -out rebuilt.wav
//
// Go 1.24 or newer is needed. The messages are in tfserving/predict.proto; a client of any other TensorFlow Serving
// model can use them too. docs/SERVING.md lists the signatures.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"tfpipe.example/client/tfserving"
)

// Level of the loudest point of a drawn sound, in dB: the median of 5 s of piano and voice.
const refDB = 9.0

func main() {
	server := flag.String("server", "localhost:8500", "HOST:PORT of the server's gRPC port")
	name := flag.String("model", "vae", "name of the model on the server")
	recording := flag.String("recording", "", "WAV file to send through the model; without it, a sound is drawn")
	label := flag.String("label", "", "label of the sound to draw; empty is any")
	seed := flag.Int64("seed", 1, "seed of the draw; the same seed gives the same sound")
	out := flag.String("out", "out.wav", "WAV file to write")
	flag.Parse()

	if err := run(*server, *name, *recording, *label, *seed, *out); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(server, name, recording, label string, seed int64, out string) error {
	// Without TLS; with --ssl_config_file on the server, use credentials.NewClientTLSFromFile.
	connection, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	model := model{tfserving.NewPredictionServiceClient(connection), server, name}

	var wav []byte
	if recording != "" {
		wav, err = model.reconstruct(ctx, recording)
	} else {
		wav, err = model.draw(ctx, label, seed)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, wav, 0o644); err != nil {
		return err
	}
	fmt.Printf("wrote %s (%d bytes)\n", out, len(wav))
	return nil
}

// A model on a server.
type model struct {
	client       tfserving.PredictionServiceClient
	server, name string
}

// reconstruct encodes and decodes the first window of a WAV file.
func (m model) reconstruct(ctx context.Context, path string) ([]byte, error) {
	recording, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return m.bytesOf(ctx, "reconstruct_wav", "wav_bytes", tensors{"wav_bytes": text(recording)})
}

// draw makes a new window of sound.
func (m model) draw(ctx context.Context, label string, seed int64) ([]byte, error) {
	inputs := tensors{"seed": int64s(seed), "temperature": float32s(1), "ref_db": float32s(refDB)}
	spec, err := m.describe(ctx)
	if err != nil {
		return nil, err
	}
	number := slices.Index(spec.Labels, label)
	switch {
	case label != "" && (number < 0 || spec.Prior == nil):
		return nil, fmt.Errorf("the model cannot draw the label %q; leave -label out, or use one of %q "+
			"with a model that has a learned prior", label, spec.Labels)
	case spec.Prior != nil: // other models do not take a label
		inputs["label"] = int32s(int32(number)) // -1 is any
	}
	return m.bytesOf(ctx, "generate_wav", "wav_bytes", inputs)
}

// What the signature `spec` answers, as far as this client needs it.
type description struct {
	Labels []string
	Prior  *struct{ Kind string }
}

func (m model) describe(ctx context.Context) (description, error) {
	var found description
	answer, err := m.bytesOf(ctx, "spec", "json", tensors{"index": int32s(0)})
	if err == nil {
		err = json.Unmarshal(answer, &found)
	}
	return found, err
}

// bytesOf runs a signature on one row and returns an output of it that is a string.
func (m model) bytesOf(ctx context.Context, signature, output string, inputs tensors) ([]byte, error) {
	answer, err := m.client.Predict(ctx, &tfserving.PredictRequest{
		ModelSpec: &tfserving.ModelSpec{Name: m.name, SignatureName: signature},
		Inputs:    inputs,
	})
	if status.Code(err) == codes.Unavailable {
		return nil, fmt.Errorf("%s: no answer (%w); start `tfpipe serve`, or give its -server", m.server, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: signature %s of the model %s: %w", m.server, signature, m.name, err)
	}
	values := answer.Outputs[output].GetStringVal()
	if len(values) != 1 {
		return nil, fmt.Errorf("%s: signature %s has no output %s of one row", m.server, signature, output)
	}
	return values[0], nil
}

type tensors = map[string]*tfserving.TensorProto

// tensor returns a batch of `rows` numbers or strings, whose values are still to be filled in.
func tensor(kind tfserving.DataType, rows int) *tfserving.TensorProto {
	batch := []*tfserving.TensorShapeProto_Dim{{Size: int64(rows)}}
	return &tfserving.TensorProto{Dtype: kind, TensorShape: &tfserving.TensorShapeProto{Dim: batch}}
}

func text(values ...[]byte) *tfserving.TensorProto {
	made := tensor(tfserving.DataType_DT_STRING, len(values))
	made.StringVal = values
	return made
}

func float32s(values ...float32) *tfserving.TensorProto {
	made := tensor(tfserving.DataType_DT_FLOAT, len(values))
	made.FloatVal = values
	return made
}

func int32s(values ...int32) *tfserving.TensorProto {
	made := tensor(tfserving.DataType_DT_INT32, len(values))
	made.IntVal = values
	return made
}

func int64s(values ...int64) *tfserving.TensorProto {
	made := tensor(tfserving.DataType_DT_INT64, len(values))
	made.Int64Val = values
	return made
}
