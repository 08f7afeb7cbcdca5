// Gradients to be encoded, by the CPU's kernels, for the tests of AdaComp.
#ifndef TF_LOWPREC_TESTS_CC_ADACOMP_PROBLEM_H_
#define TF_LOWPREC_TESTS_CC_ADACOMP_PROBLEM_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "cc/kernels/adacomp_codec.h"
#include "cc/numerics/adacomp_packet.h"

namespace tf_lowprec {

using Words = std::vector<uint32_t>;

inline void InOneThread(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  work(0, total);
}

struct Tensors {
  std::vector<float> dw, residue;
};

inline Tensors Normal(int64_t n, float spread = 1) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  Tensors t = {std::vector<float>(n), std::vector<float>(n)};
  for (float& x : t.dw) x = spread * normal(random);
  for (float& x : t.residue) x = normal(random);
  return t;
}

struct Encoded {
  Words packet;
  std::vector<float> residue;
};

inline Encoded Encode(const Tensors& t, int bin_size, bool entropy,
                      const AdaCompRun& run = InOneThread,
                      const AdaCompLoops& loops = ChooseAdaComp(), float soft_threshold = 2) {
  Encoded result;
  result.residue.resize(t.dw.size());
  AdaCompTask task;
  task.gradient = t.dw.data();
  task.residue = t.residue.data();
  task.new_residue = result.residue.data();
  task.num_elements = static_cast<int64_t>(t.dw.size());
  task.bin_size = bin_size;
  task.entropy = entropy;
  task.soft_threshold = soft_threshold;
  AdaCompEncoder encoder(task, loops, run);
  result.packet.resize(encoder.Select());
  encoder.Write(result.packet.data());
  return result;
}

inline Words Sealed(Words packet) {
  packet[1] = PacketChecksum(packet.data(), static_cast<int64_t>(packet.size()));
  return packet;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_ADACOMP_PROBLEM_H_
