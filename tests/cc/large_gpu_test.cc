// Problems of real sizes: CUDA kernels against the CPU's, all outputs to the bit. On the host,
// against gpu_shim.h, the same in small.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/matmul.h"
#include "cc/kernels/quantize.h"
#include "cc/kernels/wide_matmul.h"
#include "cc/numerics/rounding.h"
#include "gtest/gtest.h"
#include "tests/cc/conv2d_problem.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

bool OnHost() { return GpuName().find("the host") == 0; }

// A length of `full` on a GPU.
int64_t Size(int64_t full) { return OnHost() ? std::max<int64_t>(full / 16, 1) : full; }

int NumThreads() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

// work(begin, end) over [0, total) in all threads, in pieces.
void InThreads(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  const int64_t pieces = std::min<int64_t>(total, NumThreads());
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < pieces; ++i) {
    threads.emplace_back([&work, total, pieces, i] {
      const ScopedDenormals denormals;
      work(total * i / pieces, total * (i + 1) / pieces);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Splitmix64: a word for each index, in any order.
uint64_t Word(uint64_t seed, int64_t index) {
  uint64_t x = seed * 0xBF58476D1CE4E5B9u + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// Values of `bits` significant bits, a sign, and exponents -12 ... -1 with falling frequency.
float Value(uint64_t word, int bits) {
  const uint32_t significand = static_cast<uint32_t>(word) & 0x7FFFFFu & (~0u << (24 - bits));
  const int exponent = -1 - std::min(__builtin_ctzll(word >> 40 | uint64_t{1} << 11), 11);
  return FromBits<float>(static_cast<uint32_t>(word >> 63) << 31 |
                         static_cast<uint32_t>(exponent + 127) << 23 | significand);
}

std::vector<float> Values(uint64_t seed, int64_t n, int bits) {
  std::vector<float> x(n);
  InThreads(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] = Value(Word(seed, i), bits);
  });
  return x;
}

// Half like Values, half any bits.
template <typename T>
std::vector<T> AnyValues(int64_t n) {
  std::vector<T> x(n);
  InThreads(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t word = Word(1, i);
      x[i] = i % 2 == 0 ? static_cast<T>(Value(word, 24))
                        : FromBits<T>(static_cast<typename Carrier<T>::UInt>(word));
    }
  });
  return x;
}

constexpr int kEven = 0, kUp = 1, kStochastic = 2, kZero = 3;

std::string Text(const char* what, int rounding, int64_t n) {
  return std::string(what) + ", rounding " + std::to_string(rounding) + ", " + std::to_string(n);
}

QuantizeTask FloatTask(int e, int m, Specials specials, bool subnormals = true) {
  QuantizeTask task;
  task.exponent_bits = e;
  task.mantissa_bits = m;
  task.specials = static_cast<int>(specials);
  task.subnormals = subnormals;
  return task;
}

QuantizeTask FixedTask(int il, int fl) {
  QuantizeTask task;
  task.is_fixed = true;
  task.integer_bits = il;
  task.fractional_bits = fl;
  return task;
}

template <typename T>
void Quantized(const std::vector<T>& x, std::vector<QuantizeTask> tasks,
               const std::vector<int>& roundings = {kEven, kUp, kStochastic, kZero}) {
  const int64_t n = static_cast<int64_t>(x.size());
  const QuantizeFn cpu = ChooseQuantize();
  GpuArray<T> device_x(x);
  GpuArray<float> y(n);
  std::vector<float> want(n);
  const auto from = [](QuantizeTask* task, const T* values) {
    if constexpr (std::is_same_v<T, float>) {
      task->x32 = values;
    } else {
      task->x64 = values;
    }
  };
  for (QuantizeTask& task : tasks) {
    for (const int rounding : roundings) {
      task.rounding = rounding;
      task.seed[0] = 77;
      task.stream = (uint64_t{3} << 32) + 1;
      from(&task, x.data());
      task.y = want.data();
      const int64_t grains = (n + kQuantizeGrain - 1) / kQuantizeGrain;
      InThreads(grains, 1, [&](int64_t begin, int64_t end) {
        cpu(task, begin * kQuantizeGrain, std::min(end * kQuantizeGrain, n));
      });
      from(&task, device_x.data());
      task.y = y.data();
      LaunchQuantize(task, n, nullptr);
      ExpectSameBits("Quantize", y.Fetch(), want, Text("", rounding, n));
    }
  }
}

TEST(LargeGpu, Quantize) {
  const int64_t n = Size(1 << 24);
  Quantized(AnyValues<float>(n),
            {FloatTask(5, 2, Specials::kIeee), FloatTask(6, 9, Specials::kDlfloat, false),
             FloatTask(8, 7, Specials::kIeee), FixedTask(2, 14)});
  Quantized(AnyValues<double>(n), {FloatTask(4, 3, Specials::kFn), FixedTask(8, 8)});
}

// More elements than a grid has threads' worth, and odd.
TEST(LargeGpu, QuantizeStridesOverTheGrid) {
  if (OnHost()) GTEST_SKIP() << "gpu_shim_test.cc does so";
  Quantized(AnyValues<float>((int64_t{65535} * 256 * 4) + 12345 * 4 + 3),
            {FloatTask(5, 2, Specials::kIeee)});
}

TEST(LargeGpu, QuantizeGrad) {
  const int64_t n = Size(1 << 24);
  const std::vector<float> x = AnyValues<float>(n), dy = Values(2, n, 24);
  std::vector<float> want(n);
  for (int64_t i = 0; i < n; ++i) want[i] = StraightThrough(dy[i], x[i], -0.25f, 0.25f);
  GpuArray<float> device_x(x), device_dy(dy), dx(n);
  LaunchQuantizeGrad(device_dy.data(), device_x.data(), dx.data(), n, -0.25f, 0.25f, nullptr);
  ExpectSameBits("QuantizeGrad", dx.Fetch(), want, n);
}

// [m, k] times [k, n], operands of so many bits.
struct Shape {
  int64_t m, k, n;
  int bits;
};

std::vector<float> OnCpu(const MatMul& cpu, const Shape& s, const std::vector<float>& a,
                         const std::vector<float>& b, const GpuMatMulTask& gpu) {
  std::vector<float> packed[2], c(s.m * s.n);
  std::vector<PanelRange> ranges[2];
  for (const bool right : {false, true}) {
    PackTask pack;
    pack.x = right ? b.data() : a.data();
    pack.lanes = right ? s.n : s.m;
    pack.k = s.k;
    pack.lanes_last = right;
    pack.width = right ? cpu.columns : cpu.rows;
    packed[right].resize(pack.Panels() * s.k * pack.width);
    ranges[right].resize(pack.Panels());
    pack.packed = packed[right].data();
    pack.range = ranges[right].data();
    cpu.pack(pack, 0, MatMul::PackUnits(pack));
  }
  MatMulTask task;
  task.a = packed[0].data();
  task.b = packed[1].data();
  task.a_range = ranges[0].data();
  task.b_range = ranges[1].data();
  task.c = c.data();
  task.m = s.m;
  task.n = s.n;
  task.k = s.k;
  task.accumulator = gpu.accumulator;
  task.a_spec = task.b_spec = {s.bits, -149};
  memcpy(task.seed, gpu.seed, sizeof(task.seed));
  task.stream = gpu.stream;
  InThreads(cpu.Tiles(s.m, s.n), 1,
            [&](int64_t begin, int64_t end) { cpu.multiply(task, begin, end); });
  return c;
}

void Multiplied(const Shape& s, int e, int m, const std::vector<int>& roundings, int64_t chunk) {
  const ScopedDenormals denormals;
  const MatMul cpu = ChooseMatMul();
  const std::vector<float> a = Values(3, s.m * s.k, s.bits), b = Values(4, s.k * s.n, s.bits);
  GpuArray<float> device_a(a), device_b(b), c(s.m * s.n);
  GpuMatMulTask task;
  task.a = device_a.data();
  task.b = device_b.data();
  task.c = c.data();
  task.m = s.m;
  task.n = s.n;
  task.k = s.k;
  task.accumulator.exponent_bits = e;
  task.accumulator.mantissa_bits = m;
  task.accumulator.chunk = chunk;
  task.seed[1] = 99;
  task.stream = 10;
  task.a_spec = task.b_spec = {s.bits, -149};
  GpuArray<GpuGemmScratch> scratch(1);
  for (const int rounding : roundings) {
    task.accumulator.rounding = rounding;
    const std::string shape =
        std::to_string(s.m) + "x" + std::to_string(s.k) + "x" + std::to_string(s.n);
    const std::vector<float> want = OnCpu(cpu, s, a, b, task);
    task.scratch = nullptr;
    LaunchMatMul(task, nullptr);
    ExpectSameBits("MatMul", c.Fetch(), want, Text(shape.c_str(), rounding, chunk));
    task.scratch = scratch.data();
    LaunchMatMul(task, nullptr);
    ExpectSameBits("MatMul, fast paths", c.Fetch(), want, Text(shape.c_str(), rounding, chunk));
    // Stochastic sums of wide operands have the slow path alone; nearest-up has no other.
    if (rounding == kEven || rounding == kZero) {
      EXPECT_NE(scratch.Fetch()[0].path, 0) << shape << " took the slow path";
    }
  }
}

TEST(LargeGpu, MatMulOfFp8) {
  const int64_t n = Size(1024);
  Multiplied({n, n, n, 3}, 6, 9, {kEven, kUp, kStochastic, kZero}, 64);
  Multiplied({n, n, n, 3}, 6, 9, {kEven, kStochastic, kZero}, 0);
  Multiplied({n, n, n, 4}, 5, 10, {kEven, kZero}, 64);
}

TEST(LargeGpu, MatMulOfWiderOperands) {
  const int64_t n = Size(1024);
  Multiplied({n, n, n, 8}, 8, 12, {kEven, kStochastic, kZero}, 64);  // bfloat16
  Multiplied({n, n, n, 24}, 6, 9, {kEven, kStochastic, kZero}, 64);  // float32
  Multiplied({n, n, n, 24}, 8, 23, {kEven}, 0);                      // float32 throughout
  Multiplied({n, 2 * n, n, 11}, 8, 20, {kEven, kZero}, 0);           // float16
}

TEST(LargeGpu, MatMulOfOddShapes) {
  Multiplied({Size(1000), Size(777), Size(1333), 3}, 6, 9, {kEven, kStochastic, kZero}, 50);
  Multiplied({1, Size(100003), 3, 3}, 6, 9, {kEven, kStochastic}, 64);
  // More tiles than a grid has blocks.
  Multiplied({Size(5003), 9, Size(4999), 8}, 6, 9, {kEven, kStochastic}, 4);
}

TEST(LargeGpu, WideMatMul) {
  WideMatMulTask task;
  task.m = Size(1000);
  task.k = Size(3001);
  task.n = Size(777);
  task.a_fractional_bits = 14;
  task.b_fractional_bits = 15;
  std::vector<float> a(task.m * task.k), b(task.k * task.n);
  const auto fixed = [](uint64_t word, int fl) {
    return std::ldexp(static_cast<float>(static_cast<int16_t>(word)), -fl);
  };
  for (size_t i = 0; i < a.size(); ++i) a[i] = fixed(Word(5, static_cast<int64_t>(i)), 14);
  for (size_t i = 0; i < b.size(); ++i) b[i] = fixed(Word(6, static_cast<int64_t>(i)), 15);
  const WideMatMul cpu = ChooseWideMatMul();
  std::vector<double> want(task.m * task.n);
  const std::unique_ptr<void, Free> packed(
      aligned_alloc(64, static_cast<size_t>(cpu.PackedBytes(task.m, task.k) / 64 * 64 + 64)));
  std::vector<uint8_t> nan(cpu.PackUnits(task.m) * cpu.rows);
  task.a = a.data();
  task.b = b.data();
  task.c = want.data();
  task.packed_a = packed.get();
  task.a_has_nan = nan.data();
  cpu.pack(task, 0, cpu.PackUnits(task.m));
  cpu.multiply(task, 0, cpu.MultiplyUnits(task.n));
  GpuArray<float> device_a(a), device_b(b);
  GpuArray<double> c(task.m * task.n);
  task.a = device_a.data();
  task.b = device_b.data();
  task.c = c.data();
  LaunchWideMatMul(task, 1, nullptr);
  ExpectSameBits("WideMatMul", c.Fetch(), want, "1000x3001x777");
}

// A layer's convolution in all passes.
struct Layer {
  int64_t batch, size, channels, filters, window, stride, groups;
};

void Convolved(const Layer& layer, int rounding, int64_t chunk) {
  const ScopedDenormals denormals;
  const WindowAxis axis = {layer.size, layer.window, layer.stride, 1, /*same=*/true, 0, 0};
  for (const ConvPass pass : kPasses) {
    ConvProblem p;
    p.product.pass = pass;
    p.product.shape = ShapeOf(axis, axis, layer.batch, layer.groups, layer.channels / layer.groups,
                              layer.filters / layer.groups);
    p.accumulator.exponent_bits = 6;
    p.accumulator.mantissa_bits = 9;
    p.accumulator.rounding = rounding;
    p.accumulator.chunk = chunk;
    p.spec = {3, -149};
    const ConvShape& s = p.product.shape;
    const int64_t x = s.InPixels() * s.in_channels, dy = s.OutPixels() * s.out_channels;
    const int64_t filters = s.Taps() * s.GroupIn() * s.out_channels;
    p.a = Values(7, pass == ConvPass::kBackward ? dy : x, 3);
    p.b = Values(8, pass == ConvPass::kGradient ? dy : filters, 3);
    GpuArray<float> a(p.a), b(p.b), c(p.Size());
    GpuConv2DTask task;
    task.product = p.product;
    task.a = a.data();
    task.b = b.data();
    task.c = c.data();
    task.accumulator = p.accumulator;
    memcpy(task.seed, p.seed, sizeof(task.seed));
    task.stream = p.stream;
    task.a_spec = task.b_spec = p.spec;
    GpuArray<GpuGemmScratch> scratch(1);
    task.scratch = scratch.data();
    LaunchConv2D(task, nullptr);
    const char* const names[] = {"Conv2D", "Conv2D backward", "Conv2D gradient"};
    ExpectSameBits(names[static_cast<int>(pass)], c.Fetch(),
                   OnCpu(p, ConvBudget(), InThreads, NumThreads()), p);
  }
}

TEST(LargeGpu, ResNetsConvolutions) {
  const int64_t batch = OnHost() ? 1 : 16;
  for (const int rounding : {kEven, kStochastic, kZero}) {
    Convolved({batch, OnHost() ? 14 : 56, Size(64), Size(64), 3, 1, 1}, rounding, 64);
  }
  Convolved({batch, OnHost() ? 9 : 224, 3, Size(64), 7, 2, 1}, kEven, 64);
  Convolved({batch, OnHost() ? 7 : 56, Size(256), Size(128), 1, 2, 1}, kEven, 64);
  Convolved({batch, OnHost() ? 7 : 28, Size(128), Size(128), 3, 2, 1}, kStochastic, 64);
  Convolved({batch, 7, Size(512), Size(512), 3, 1, 1}, kEven, 0);
  Convolved({batch, OnHost() ? 7 : 56, 64, 64, 3, 1, /*groups=*/64}, kEven, 64);  // depthwise
}

TEST(LargeGpu, QuantizeBeyondTwoGigaElements) {
  if (OnHost()) GTEST_SKIP() << "too much for the host";
  Quantized(AnyValues<float>((int64_t{1} << 31) + 5), {FixedTask(2, 14)}, {kStochastic});
}

}  // namespace
}  // namespace tf_lowprec
