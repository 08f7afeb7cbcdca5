// AdaComp's CUDA kernels, on a GPU or compiled for the host against gpu_shim.h: packets, residues
// and sums have the bits of the CPU's, and every defect of a packet is found, with the same words.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cc/kernels/adacomp_codec.h"
#include "gtest/gtest.h"
#include "tests/cc/adacomp_packet_cases.h"
#include "tests/cc/adacomp_problem.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

// For the shim's threads, which the address sanitizer makes twenty times slower: one size instead
// of several, or none, where there are many elements.
#if defined(__SANITIZE_ADDRESS__)
const std::vector<int64_t> kLongSizes = {1000};
const std::vector<int> kLongBins = {50};
const std::vector<int64_t> kLongSteps = {};
#else
const std::vector<int64_t> kLongSizes = {1000, 20000};
const std::vector<int> kLongBins = {1, 50, 500, 16384};
const std::vector<int64_t> kLongSteps = {130, 70000};
#endif

// What a codec asks for; freed with this.
class Scratch {
 public:
  ~Scratch() {
    for (void* memory : memory_) FreeOnGpu(memory);
  }
  GpuAllocate Allocate() {
    return [this](int64_t bytes) {
      memory_.push_back(AllocateOnGpu(static_cast<size_t>(bytes)));
      return memory_.back();
    };
  }

 private:
  std::vector<void*> memory_;
};

Encoded EncodeOnGpu(const Tensors& t, int bin_size, bool entropy, float soft_threshold) {
  GpuArray<float> gradient(t.dw), residue(t.residue);
  GpuArray<float> new_residue(static_cast<int64_t>(t.dw.size()));
  AdaCompTask task;
  task.gradient = gradient.data();
  task.residue = residue.data();
  task.new_residue = new_residue.data();
  task.num_elements = static_cast<int64_t>(t.dw.size());
  task.bin_size = bin_size;
  task.entropy = entropy;
  task.soft_threshold = soft_threshold;
  Scratch scratch;
  AdaCompGpuEncoder encoder(task, scratch.Allocate(), nullptr);
  GpuArray<uint32_t> packet(encoder.Select());
  encoder.Write(packet.data());
  const Words written = packet.Fetch();
  Words on_host(written.size());
  // Once more would subtract again what is sent: a second encoder, from a second residue.
  GpuArray<float> other_residue(task.num_elements);
  task.new_residue = other_residue.data();
  AdaCompGpuEncoder again(task, scratch.Allocate(), nullptr);
  EXPECT_EQ(again.Select(), static_cast<int64_t>(written.size()));
  EXPECT_TRUE(again.WriteToHost(on_host.data()));
  EXPECT_EQ(on_host, written);
  return {written, new_residue.Fetch()};
}

// Also: the CPU's check says the same.
std::string Problem(const Words& words, int64_t n) {
  GpuArray<uint32_t> packet(words);
  const int64_t size = static_cast<int64_t>(words.size());
  Scratch scratch;
  AdaCompGpuDecoder decoder(packet.data(), size, scratch.Allocate(), nullptr);
  const char* const got = decoder.Check(n);
  const Words copy(words);  // of the exact size
  const char* const want = CheckAdaCompPacket(copy.data(), size, n, ChooseAdaComp(), InOneThread);
  EXPECT_STREQ(got, want);
  return got == nullptr ? "" : got;
}

// The sum of packets.
std::vector<float> Decode(const std::vector<Words>& packets, int64_t n) {
  GpuArray<float> y(n);
  Scratch scratch;
  for (size_t i = 0; i < packets.size(); ++i) {
    const int64_t size = static_cast<int64_t>(packets[i].size());
    const uint32_t* const packet =
        PutPacketOnGpu(packets[i].data(), size, scratch.Allocate(), nullptr);
    AdaCompGpuDecoder decoder(packet, size, scratch.Allocate(), nullptr);
    EXPECT_STREQ(decoder.Check(n), nullptr);
    decoder.Add(i == 0, y.data());
  }
  return y.Fetch();
}

std::vector<float> DecodeAlone(const Words& packet, int64_t n) { return Decode({packet}, n); }

// Encoded and decoded by both.
void ExpectTheCpusBits(const Tensors& t, int bin_size, bool entropy, float soft_threshold = 2) {
  const int64_t n = static_cast<int64_t>(t.dw.size());
  const Encoded want = Encode(t, bin_size, entropy, InOneThread, ChooseAdaComp(), soft_threshold);
  const Encoded got = EncodeOnGpu(t, bin_size, entropy, soft_threshold);
  const std::string what = std::to_string(n) + " elements, bins of " + std::to_string(bin_size) +
                           (entropy ? ", entropy" : ", plain") + ", threshold " +
                           std::to_string(soft_threshold);
  ExpectSameBits("AdaCompEncode, packets", got.packet, want.packet, what);
  ExpectSameBits("AdaCompEncode, residues", got.residue, want.residue, what);
  std::vector<float> y(n);
  AddAdaCompPacket(want.packet.data(), true, y.data(), ChooseAdaComp(), InOneThread);
  AddAdaCompPacket(want.packet.data(), false, y.data(), ChooseAdaComp(), InOneThread);
  ExpectSameBits("AdaCompDecode", Decode({want.packet, want.packet}, n), y, what);
}

// Few are other than 0: long runs of empty bins.
Tensors Sparse(int64_t n, int64_t step) {
  Tensors t = {std::vector<float>(n), std::vector<float>(n)};
  for (int64_t i = step / 2; i < n; i += step) t.dw[i] = i % 2 == 0 ? 1.5f : -0.25f;
  return t;
}

TEST(AdaCompGpu, HasTheBitsOfTheCpu) {
  std::vector<int64_t> sizes = {1, 7, 16, 63};
  sizes.insert(sizes.end(), kLongSizes.begin(), kLongSizes.end());
  for (const int64_t n : sizes) {
    for (const float spread : {0.01f, 1.0f}) {
      const Tensors t = Normal(n, spread);
      for (const int bin_size : {1, 5, 16, 50, 64, 65, 500}) {
        for (const bool entropy : {false, true}) ExpectTheCpusBits(t, bin_size, entropy);
      }
    }
  }
}

TEST(AdaCompGpu, ManySegments) {
  const Tensors t = Normal(kSegmentElements + 4321, 0.05f);
  for (const int bin_size : kLongBins) {
    for (const bool entropy : {false, true}) ExpectTheCpusBits(t, bin_size, entropy);
  }
}

TEST(AdaCompGpu, SoftThresholds) {
  for (const float threshold : {1.0f, 1.5f, 3.0f}) {
    ExpectTheCpusBits(Normal(3000, 0.2f), 50, false, threshold);
    ExpectTheCpusBits(Normal(3000, 0.2f), 500, true, threshold);
  }
}

TEST(AdaCompGpu, RunsOfEmptyBins) {
  for (const int64_t n : {1, 2, 3, 256, 257, 258, 259, 514, 515, 516, 10000}) {
    ExpectTheCpusBits(Sparse(n, 2 * n + 1), 1, false);  // nothing but a run
    // A first code says up to 63 of them, a run up to 257.
    for (const int64_t step : {2, 64, 65, 66, 300, 320, 321, 322, 323}) {
      ExpectTheCpusBits(Sparse(n, step), 1, false);
    }
  }
  for (const int64_t step : kLongSteps) {
    for (const int bin_size : {1, 65}) {
      for (const bool entropy : {false, true}) {
        ExpectTheCpusBits(Sparse(kSegmentElements + 2000, step), bin_size, entropy);
      }
    }
  }
}

// Maxima whose float64 sum depends on the order.
TEST(AdaCompGpu, TheScaleIsSummedInOrder) {
  const int64_t n = 3000;
  Tensors t = Normal(n);
  for (int64_t i = 0; i < n; ++i) t.dw[i] = std::ldexp(t.dw[i], static_cast<int>(i * 37 % 90) - 45);
  double forwards = 0, backwards = 0;
  for (int64_t i = 0; i < n; ++i) {
    forwards += static_cast<double>(std::fabs(t.dw[i] + t.residue[i]));
    backwards += static_cast<double>(std::fabs(t.dw[n - 1 - i] + t.residue[n - 1 - i]));
  }
  EXPECT_NE(forwards, backwards);
  ExpectTheCpusBits(t, 1, false);
  ExpectTheCpusBits(t, 7, true);
}

TEST(AdaCompGpu, SubnormalsAreKept) {
  Tensors t = Normal(2000);
  for (float& x : t.dw) x *= 1e-41f;
  for (float& x : t.residue) x *= 1e-41f;
  ExpectTheCpusBits(t, 50, false);
  ExpectTheCpusBits(t, 500, true);
}

TEST(AdaCompGpu, OneNanSkipsAll) {
  Tensors t = Normal(kSegmentElements + 100);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    t.dw[kSegmentElements + 5] = bad;
    ExpectTheCpusBits(t, 50, false);
    ExpectTheCpusBits(t, 500, true);
    EXPECT_EQ(EncodeOnGpu(t, 50, false, 2).packet.size(), 5u);
  }
}

TEST(AdaCompGpu, NoElements) {
  ExpectTheCpusBits(Tensors(), 50, false);
  ExpectTheCpusBits(Tensors(), 50, true);
}

}  // namespace
}  // namespace tf_lowprec
