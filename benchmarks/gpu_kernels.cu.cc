// Speed of the CUDA kernels, beside a device-to-device copy and cuBLAS's SGEMM in the same run.
// usage: gpu_kernels [JSON_FILE]       tools/gpu_test.sh builds and runs it.
//
// Times are medians between two CUDA events around one launch. A G is 10^9; MAC/s counts
// multiply-accumulates. TF_LOWPREC_CUBLAS names a libcublas.so that is not where the loader looks.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/matmul.h"
#include "cc/kernels/quantize.h"

namespace tf_lowprec {
namespace {

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  exit(1);
}

// Median seconds of launch(), after one that is not timed.
double Seconds(const std::function<void()>& launch) {
  constexpr double kEnough = 0.15;
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> seconds;
  double total = 0;
  for (int i = 0; i < 51 && (i < 4 || total < kEnough); ++i) {
    Check(cudaEventRecord(begin), "cudaEventRecord");
    launch();
    Check(cudaGetLastError(), "launching a kernel");
    Check(cudaEventRecord(end), "cudaEventRecord");
    Check(cudaEventSynchronize(end), "running a kernel");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i == 0) continue;
    seconds.push_back(milliseconds * 1e-3);
    total += seconds.back();
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Floats on the GPU: `bits` significant bits, a sign, and exponents from -6 to -1.
class Floats {
 public:
  explicit Floats(int64_t n, int bits = 24) {
    Check(cudaMalloc(&data_, static_cast<size_t>(n) * sizeof(float)), "cudaMalloc");
    const int64_t block = std::min<int64_t>(n, 1 << 22);
    std::vector<uint32_t> x(block);
    uint64_t state = 88172645463325252u;
    for (uint32_t& value : x) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      const uint32_t exponent = 121 + static_cast<uint32_t>(state >> 40) % 6;
      value = static_cast<uint32_t>(state >> 63) << 31 | exponent << 23 |
              (static_cast<uint32_t>(state) & 0x7FFFFFu & (~0u << (24 - bits)));
    }
    for (int64_t at = 0; at < n; at += block) {
      Check(cudaMemcpy(data_ + at, x.data(), std::min(block, n - at) * sizeof(float),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy");
    }
  }
  ~Floats() { cudaFree(data_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* data() { return data_; }

 private:
  float* data_ = nullptr;
};

class Scratch {
 public:
  Scratch() { Check(cudaMalloc(&data_, sizeof(GpuGemmScratch)), "cudaMalloc"); }
  ~Scratch() { cudaFree(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  GpuGemmScratch* data() const { return data_; }

 private:
  GpuGemmScratch* data_ = nullptr;
};

// cuBLAS, found at run time.
class Blas {
 public:
  Blas() {
    const char* named = getenv("TF_LOWPREC_CUBLAS");
    for (const char* name : {named, "libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if (name != nullptr && library_ == nullptr) library_ = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    }
    if (library_ == nullptr) return;
    const auto create = reinterpret_cast<int (*)(void**)>(dlsym(library_, "cublasCreate_v2"));
    sgemm_ = reinterpret_cast<Sgemm>(dlsym(library_, "cublasSgemm_v2"));
    if (create == nullptr || sgemm_ == nullptr || create(&handle_) != 0) library_ = nullptr;
  }
  bool found() const { return library_ != nullptr; }
  // Row-major [m, k] times [k, n], in float32.
  void Multiply(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
    const float one = 1, zero = 0;
    const int status =
        sgemm_(handle_, 0, 0, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one,
               b, static_cast<int>(n), a, static_cast<int>(k), &zero, c, static_cast<int>(n));
    if (status != 0) fprintf(stderr, "cublasSgemm: status %d\n", status);
  }

 private:
  using Sgemm = int (*)(void*, int, int, int, int, int, const float*, const float*, int,
                        const float*, int, const float*, float*, int);
  void* library_ = nullptr;
  void* handle_ = nullptr;
  Sgemm sgemm_ = nullptr;
};

// One line of the table and of the JSON.
struct Row {
  std::string op, shape, setting, unit;
  double seconds, giga, ratio;  // ratio to `peer`; 0: there is none
  std::string peer;
};

class Table {
 public:
  void Add(Row row) {
    printf("%-16s %-28s %-34s %10.4f ms %10.2f %-12s", row.op.c_str(), row.shape.c_str(),
           row.setting.c_str(), 1e3 * row.seconds, row.giga, row.unit.c_str());
    if (row.ratio > 0) printf(" %.4f of %s", row.ratio, row.peer.c_str());
    printf("\n");
    fflush(stdout);
    rows_.push_back(std::move(row));
  }
  bool Save(const char* path, const char* gpu) const {
    FILE* out = fopen(path, "w");
    if (out == nullptr) return false;
    fprintf(out, "{\"gpu\": \"%s\", \"rows\": [", gpu);
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      fprintf(out,
              "%s\n  {\"op\": \"%s\", \"shape\": \"%s\", \"setting\": \"%s\", \"ms\": %.6f, "
              "\"giga_per_second\": %.4f, \"unit\": \"%s\"",
              i > 0 ? "," : "", r.op.c_str(), r.shape.c_str(), r.setting.c_str(), 1e3 * r.seconds,
              r.giga, r.unit.c_str());
      if (r.ratio > 0) fprintf(out, ", \"ratio\": %.6f, \"peer\": \"%s\"", r.ratio, r.peer.c_str());
      fprintf(out, "}");
    }
    fprintf(out, "\n]}\n");
    return fclose(out) == 0;
  }

 private:
  std::vector<Row> rows_;
};

constexpr int kEven = 0, kUp = 1, kStochastic = 2, kZero = 3;
const char* const kRoundingNames[] = {"nearest", "nearest_up", "stochastic", "toward_zero"};

void MeasureQuantize(Table* table) {
  const int64_t n = int64_t{1} << 26;
  Floats x(n), y(n);
  const double copy = Seconds([&] {
    cudaMemcpyAsync(y.data(), x.data(), n * sizeof(float), cudaMemcpyDeviceToDevice, nullptr);
  });
  const std::string shape = std::to_string(n >> 20) + " Mi elements";
  table->Add({"copy", shape, "cudaMemcpy", "elements/s", copy, n / copy * 1e-9, 0, ""});
  struct Format {
    const char* name;
    bool fixed;
    int whole, part;  // exponent and mantissa bits, or integer and fractional bits
  };
  for (const Format& format : {Format{"float<5,2>", false, 5, 2},
                               {"float<6,9>", false, 6, 9},
                               {"fixed<2,14>", true, 2, 14}}) {
    for (const int rounding : {kEven, kZero, kStochastic}) {
      QuantizeTask task;
      task.is_fixed = format.fixed;
      (format.fixed ? task.integer_bits : task.exponent_bits) = format.whole;
      (format.fixed ? task.fractional_bits : task.mantissa_bits) = format.part;
      task.rounding = rounding;
      task.x32 = x.data();
      task.y = y.data();
      const double seconds = Seconds([&] { LaunchQuantize(task, n, nullptr); });
      table->Add({"Quantize", shape, std::string(format.name) + " " + kRoundingNames[rounding],
                  "elements/s", seconds, n / seconds * 1e-9, copy / seconds, "copy"});
    }
  }
  const double seconds =
      Seconds([&] { LaunchQuantizeGrad(x.data(), y.data(), x.data(), n, -0.25f, 0.25f, nullptr); });
  table->Add({"QuantizeGrad", shape, "", "elements/s", seconds, n / seconds * 1e-9, copy / seconds,
              "copy"});
}

struct Setting {
  const char* name;
  int operand_bits, exponent_bits, mantissa_bits, rounding;
  int64_t chunk;
};
const Setting kSettings[] = {
    {"float<6,9> nearest chunk 64", 3, 6, 9, kEven, 64},
    {"float<6,9> nearest", 3, 6, 9, kEven, 0},
    {"float<6,9> toward_zero chunk 64", 3, 6, 9, kZero, 64},
    {"float<6,9> stochastic chunk 64", 3, 6, 9, kStochastic, 64},
    {"float<6,9> nearest_up chunk 64", 3, 6, 9, kUp, 64},
    {"same, nearest, float32 operands", 24, 6, 9, kEven, 64},
};

AccumulatorSpec Accumulator(const Setting& setting) {
  AccumulatorSpec spec;
  spec.exponent_bits = setting.exponent_bits;
  spec.mantissa_bits = setting.mantissa_bits;
  spec.rounding = setting.rounding;
  spec.chunk = setting.chunk;
  return spec;
}

// Seconds that SGEMM takes; 0 without cuBLAS.
double SgemmSeconds(Blas* blas, Table* table, int64_t m, int64_t n, int64_t k,
                    const std::string& shape) {
  if (!blas->found()) return 0;
  Floats a(m * k), b(k * n), c(m * n);
  const double seconds = Seconds([&] { blas->Multiply(m, n, k, a.data(), b.data(), c.data()); });
  const double macs = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  table->Add({"cuBLAS SGEMM", shape, "float32", "MAC/s", seconds, macs / seconds * 1e-9, 0, ""});
  return seconds;
}

void MeasureMatMul(Blas* blas, Table* table) {
  for (const int64_t n : {1024, 2048, 4096}) {
    const std::string shape = std::to_string(n) + "^3";
    const double sgemm = SgemmSeconds(blas, table, n, n, n, shape);
    for (const Setting& setting : kSettings) {
      Floats a(n * n, setting.operand_bits), b(n * n, setting.operand_bits), c(n * n);
      GpuMatMulTask task;
      task.a = a.data();
      task.b = b.data();
      task.c = c.data();
      task.m = task.n = task.k = n;
      task.accumulator = Accumulator(setting);
      task.seed[0] = 1;
      const Scratch scratch;
      task.scratch = scratch.data();
      task.a_spec = task.b_spec = {setting.operand_bits, -149};
      const double seconds = Seconds([&] { LaunchMatMul(task, nullptr); });
      const double macs = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
      table->Add({"MatMul", shape, setting.name, "MAC/s", seconds, macs / seconds * 1e-9,
                  sgemm / seconds, "SGEMM"});
    }
  }
}

void MeasureConv2D(Blas* blas, Table* table) {
  const char* const passes[] = {"Conv2D", "Conv2D backward", "Conv2D gradient"};
  struct Layer {
    int64_t batch, size, channels;
  };
  for (const Layer& layer : {Layer{64, 56, 64}, {64, 14, 256}}) {
    ConvShape s;
    s.batch = layer.batch;
    s.in_height = s.in_width = s.out_height = s.out_width = layer.size;
    s.in_channels = s.out_channels = layer.channels;
    s.filter_height = s.filter_width = 3;
    s.pad_top = s.pad_left = 1;
    const std::string shape = std::to_string(layer.batch) + "x" + std::to_string(layer.size) + "x" +
                              std::to_string(layer.size) + "x" + std::to_string(layer.channels) +
                              ", 3x3x" + std::to_string(layer.channels);
    for (int pass = 0; pass < 3; ++pass) {
      GpuConv2DTask task;
      task.product.pass = static_cast<ConvPass>(pass);
      task.product.shape = s;
      const ConvProduct& p = task.product;
      const double sgemm =
          SgemmSeconds(blas, table, p.Rows(), p.Columns(), p.Length(), shape + " as a matrix");
      const int64_t image = s.InPixels() * s.in_channels;
      const int64_t filters = s.Taps() * s.in_channels * s.out_channels;
      Floats a(image, 3), b(pass == 2 ? image : filters, 3), c(pass == 2 ? filters : image);
      task.a = a.data();
      task.b = b.data();
      task.c = c.data();
      const Scratch scratch;
      task.scratch = scratch.data();
      for (const Setting& setting : {kSettings[0], kSettings[2], kSettings[3]}) {
        task.accumulator = Accumulator(setting);
        task.a_spec = task.b_spec = {setting.operand_bits, -149};
        const double seconds = Seconds([&] { LaunchConv2D(task, nullptr); });
        const double macs = static_cast<double>(p.Rows()) * static_cast<double>(p.Columns()) *
                            static_cast<double>(p.Length());
        table->Add({passes[pass], shape, setting.name, "MAC/s", seconds, macs / seconds * 1e-9,
                    sgemm / seconds, "SGEMM"});
      }
    }
  }
}

int Main(const char* json) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, 0);
  if (status != cudaSuccess) {
    printf("SKIPPED: there is no GPU here (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  Blas blas;
  if (!blas.found()) printf("no cuBLAS was found: SGEMM is not measured\n");
  Table table;
  MeasureQuantize(&table);
  MeasureMatMul(&blas, &table);
  MeasureConv2D(&blas, &table);
  if (json != nullptr && !table.Save(json, properties.name)) {
    fprintf(stderr, "cannot write %s\n", json);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tf_lowprec

int main(int argc, char** argv) { return tf_lowprec::Main(argc > 1 ? argv[1] : nullptr); }
