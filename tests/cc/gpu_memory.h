// The memory that CUDA kernels work on in their tests. Linked with what nvcc compiled it is a
// GPU's; against gpu_shim.h it is the host's, of exactly the size asked for, so that the address
// sanitizer sees what a kernel touches beyond.
#ifndef TF_LOWPREC_TESTS_CC_GPU_MEMORY_H_
#define TF_LOWPREC_TESTS_CC_GPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tf_lowprec {

// What the kernels run on. A program that was built for a GPU and finds none says so and ends here,
// with the exit status 77.
std::string GpuName();

void* AllocateOnGpu(size_t bytes);
void FreeOnGpu(void* memory);
void CopyToGpu(void* to, const void* from, size_t bytes);
// Waits for the kernels before it; if one of them failed, the program ends.
void CopyFromGpu(void* to, const void* from, size_t bytes);

// An array in that memory; what nothing wrote shows as bytes of 0xCD.
template <typename T>
class GpuArray {
 public:
  explicit GpuArray(int64_t size)
      : GpuArray(std::vector<T>(static_cast<size_t>(size), Unwritten())) {}
  explicit GpuArray(const std::vector<T>& values) : GpuArray(values.data(), values.size()) {}
  GpuArray(const T* values, size_t size)
      : size_(size), data_(static_cast<T*>(AllocateOnGpu(size * sizeof(T)))) {
    CopyToGpu(data_, values, size * sizeof(T));
  }
  ~GpuArray() { FreeOnGpu(data_); }
  GpuArray(const GpuArray&) = delete;
  GpuArray& operator=(const GpuArray&) = delete;

  T* data() { return data_; }
  std::vector<T> Fetch() const {
    std::vector<T> values(size_);
    CopyFromGpu(values.data(), data_, size_ * sizeof(T));
    return values;
  }

 private:
  static T Unwritten() {
    T value;
    for (size_t i = 0; i < sizeof(T); ++i) reinterpret_cast<unsigned char*>(&value)[i] = 0xCD;
    return value;
  }

  const size_t size_;
  T* const data_;
};

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_GPU_MEMORY_H_
