// Serves a prediction of an exported model without Python, through TensorFlow's C API:
//
//   predict LIBRARY MODEL SHAPE < input > output
//
// LIBRARY is tf_lowprec's op library (tf_lowprec/_ops.so), or "-" for a portable export. MODEL is
// the folder that lp.export wrote. SHAPE is that of the input, such as 2,28,28,1. Input and output
// are float32 values as they lie in memory. The model's signature must have one input; of several
// outputs the first by name is written.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"

namespace {

// Ends the program with the status' message, unless it is fine.
void Check(const TF_Status* status, const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  std::fprintf(stderr, "predict: %s: %s\n", what, TF_Message(status));
  std::exit(1);
}

void Fail(const std::string& message) {
  std::fprintf(stderr, "predict: %s\n", message.c_str());
  std::exit(1);
}

std::vector<int64_t> ParseShape(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream stream(text);
  for (std::string extent; std::getline(stream, extent, ',');) {
    char* end = nullptr;
    const int64_t value = std::strtoll(extent.c_str(), &end, 10);
    if (end == extent.c_str() || *end != '\0' || value < 0) {
      Fail("SHAPE = '" + text + "' must be sizes such as 2,28,28,1");
    }
    shape.push_back(value);
  }
  return shape;
}

// A tensor of that shape, its values from standard input.
TF_Tensor* ReadTensor(const std::vector<int64_t>& shape) {
  size_t bytes = sizeof(float);
  for (const int64_t extent : shape) bytes *= static_cast<size_t>(extent);
  TF_Tensor* tensor =
      TF_AllocateTensor(TF_FLOAT, shape.data(), static_cast<int>(shape.size()), bytes);
  if (std::fread(TF_TensorData(tensor), 1, bytes, stdin) != bytes || std::fgetc(stdin) != EOF) {
    Fail("standard input must hold " + std::to_string(bytes) + " bytes, those of SHAPE in float32");
  }
  return tensor;
}

// "name:2" in a graph.
TF_Output Endpoint(TF_Graph* graph, const std::string& name) {
  const size_t colon = name.rfind(':');
  TF_Operation* operation = TF_GraphOperationByName(graph, name.substr(0, colon).c_str());
  if (operation == nullptr) Fail("the graph has no " + name);
  return {operation, colon == std::string::npos ? 0 : std::atoi(name.c_str() + colon + 1)};
}

tensorflow::SignatureDef Signature(const TF_Buffer* meta_graph) {
  tensorflow::MetaGraphDef definition;
  definition.ParseFromArray(meta_graph->data, static_cast<int>(meta_graph->length));
  const auto& signatures = definition.signature_def();
  const auto found = signatures.find("serving_default");
  if (found == signatures.end()) Fail("the model has no signature serving_default");
  if (found->second.inputs_size() != 1) Fail("the model's signature must have one input");
  return found->second;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) Fail("usage: predict LIBRARY|- MODEL SHAPE < input > output");
  const std::string library = argv[1], model = argv[2];
  const std::unique_ptr<TF_Status, void (*)(TF_Status*)> status(TF_NewStatus(), TF_DeleteStatus);

  // Before the model, whose graph names the library's ops.
  if (library != "-") {
    TF_LoadLibrary(library.c_str(), status.get());
    Check(status.get(), "cannot load the op library");
  }
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Buffer* meta_graph = TF_NewBuffer();
  const char* tag = "serve";
  TF_Session* session = TF_LoadSessionFromSavedModel(options, nullptr, model.c_str(), &tag, 1,
                                                     graph, meta_graph, status.get());
  Check(status.get(), "cannot load the model");

  const tensorflow::SignatureDef signature = Signature(meta_graph);
  const TF_Output input = Endpoint(graph, signature.inputs().begin()->second.name());
  std::string first;
  for (const auto& [name, info] : signature.outputs()) {
    if (first.empty() || name < first) first = name;
  }
  const TF_Output output = Endpoint(graph, signature.outputs().at(first).name());

  TF_Tensor* x = ReadTensor(ParseShape(argv[3]));
  TF_Tensor* y = nullptr;
  TF_SessionRun(session, nullptr, &input, &x, 1, &output, &y, 1, nullptr, 0, nullptr, status.get());
  Check(status.get(), "cannot run the model");
  std::fwrite(TF_TensorData(y), 1, TF_TensorByteSize(y), stdout);

  TF_DeleteTensor(x);
  TF_DeleteTensor(y);
  TF_CloseSession(session, status.get());
  TF_DeleteSession(session, status.get());
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  return 0;
}
