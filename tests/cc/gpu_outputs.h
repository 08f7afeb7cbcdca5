// Outputs of CUDA kernels against what they should be, bit for bit, and how many there were.
#ifndef TF_LOWPREC_TESTS_CC_GPU_OUTPUTS_H_
#define TF_LOWPREC_TESTS_CC_GPU_OUTPUTS_H_

#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "cc/kernels/cpu_features.h"
#include "gtest/gtest.h"
#include "tests/cc/gpu_memory.h"

namespace tf_lowprec {

// Prints what the kernels run on, and after the last test how many outputs of each op were right.
class GpuOutputs : public testing::Environment {
 public:
  static void Add(const std::string& op, int64_t n) { Counts()[op] += n; }
  void SetUp() override {
    const char* const isas[] = {"portable", "AVX2", "AVX-512"};
    std::cout << "kernels of " << isas[static_cast<int>(ChooseIsa())] << " against those of ";
    std::cout << GpuName() << std::endl;
  }
  void TearDown() override {
    for (const auto& [op, count] : Counts()) {
      std::cout << op << ": " << count << " outputs right to the bit on " << GpuName() << std::endl;
    }
  }

 private:
  static std::map<std::string, int64_t>& Counts() {
    static std::map<std::string, int64_t> counts;
    return counts;
  }
};

// In every test program of CUDA kernels:
#define LOWPREC_GPU_TEST \
  testing::Environment* const kOutputs = testing::AddGlobalTestEnvironment(new GpuOutputs)

// `what`: something to print.
template <typename T, typename What>
bool ExpectSameBits(const std::string& op, const std::vector<T>& got, const std::vector<T>& want,
                    const What& what) {
  EXPECT_EQ(got.size(), want.size()) << op << " " << what;
  if (got.size() != want.size()) return false;
  int64_t wrong = 0, first = 0;
  for (size_t i = got.size(); i-- > 0;) {
    if (memcmp(&got[i], &want[i], sizeof(T)) == 0) continue;
    ++wrong;
    first = static_cast<int64_t>(i);
  }
  if (wrong == 0) {
    GpuOutputs::Add(op, static_cast<int64_t>(got.size()));
    return true;
  }
  ADD_FAILURE() << op << " " << what << ": " << wrong << " of " << got.size()
                << " outputs are wrong; of the first, element " << first << ", got "
                << std::hexfloat << got[first] << ", want " << want[first];
  return false;
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_GPU_OUTPUTS_H_
