#include "cc/kernels/cpu_features.h"

#include <cstdlib>
#include <cstring>

namespace tf_lowprec {

Isa ChooseIsa() {
  Isa best = Isa::kPortable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = Isa::kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      best = Isa::kAvx512;
    }
  }
#endif
  const char* wanted = std::getenv("TF_LOWPREC_ISA");
  if (wanted == nullptr) return best;
  if (std::strcmp(wanted, "portable") == 0) return Isa::kPortable;
  if (std::strcmp(wanted, "avx2") == 0 && best != Isa::kPortable) return Isa::kAvx2;
  return best;
}

}  // namespace tf_lowprec
