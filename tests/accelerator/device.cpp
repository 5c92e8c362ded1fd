// `testdev`: an accelerator for tests, made of host memory with an exact byte limit.
//
// PyTorch reserves the PrivateUse1 key for devices that live outside its tree. This one computes on
// the CPU, but its tensors are on a device of their own: they come from an allocator that counts
// every byte, refuses the first one above its limit with a real torch.OutOfMemoryError, and answers
// the memory calls of torch.accelerator. So code written for an accelerator can run for real, out of
// memory included, where there is no accelerator.
//
// What is counted is what lives in device tensors, rounded up to blocks of 512 bytes. Kernels run on
// the host and their scratch memory is host memory, so the peak is that of the live tensors. Recurrent
// layers (nn.LSTM, nn.GRU) don't run: PyTorch takes them for fused on such a device, and these aren't.
//
// The Python side calls the extern "C" functions at the end through ctypes: without pybind11 this
// file compiles in a fraction of the time and needs no Python headers.

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace testdev {

using at::IntArrayRef;
using at::Scalar;
using at::Tensor;

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr size_t kBlockBytes = 512;
constexpr size_t kAlignmentBytes = 64;
const c10::Device kDevice(kType, 0);

// ---------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------

struct Block {
  void* data;
  size_t bytes;
};

void release_block(void* block);

// Like a caching allocator, what was reserved stays reserved until the cache is emptied; unlike one,
// blocks never fragment, so an allocation fails exactly where live bytes would pass the limit.
class LimitedAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t requested) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t bytes = (requested + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    if (bytes == 0) {
      return {nullptr, kDevice};
    }
    if (bytes > limit() || live_bytes() > limit() - bytes) {
      ++out_of_memory_count_;
      raise_out_of_memory(requested);
    }
    auto block = std::make_unique<Block>(Block{nullptr, bytes});
    if (posix_memalign(&block->data, kAlignmentBytes, bytes) != 0) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "testdev: the host has no memory for it");
    }
    count(bytes);
    void* data = block->data;
    return {data, block.release(), &release_block, kDevice};
  }

  void forget(const Block& block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    allocated_.decrease(block.bytes);
    blocks_.decrease(1);
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

  bool initialized() override {
    return true;
  }

  void emptyCache(c10::MempoolId_t /*pool*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    reserved_.decrease(reserved_.current - allocated_.current);
  }

  void recordStream(const c10::DataPtr& /*data*/, c10::Stream /*stream*/) override {}

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex /*device*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocation[all] = blocks_;
    stats.active[all] = blocks_;
    stats.allocated_bytes[all] = allocated_;
    stats.active_bytes[all] = allocated_;
    stats.requested_bytes[all] = allocated_;
    stats.reserved_bytes[all] = reserved_;
    stats.num_ooms = out_of_memory_count_;
    return stats;
  }

  void resetAccumulatedStats(c10::DeviceIndex /*device*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.reset_accumulated();
    allocated_.reset_accumulated();
    reserved_.reset_accumulated();
    out_of_memory_count_ = 0;
  }

  void resetPeakStats(c10::DeviceIndex /*device*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.reset_peak();
    allocated_.reset_peak();
    reserved_.reset_peak();
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex /*device*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {free_bytes(), capacity_};
  }

  // The size of the device. It may be set below what is live: then nothing more can be had.
  void set_capacity(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    capacity_ = bytes;
  }

  // The share of the device that this process may take, as with torch.cuda.
  void set_fraction(double fraction) {
    const std::lock_guard<std::mutex> lock(mutex_);
    fraction_ = fraction;
  }

 private:
  size_t limit() const {
    return fraction_ >= 1.0 ? capacity_ : static_cast<size_t>(fraction_ * static_cast<double>(capacity_));
  }

  size_t live_bytes() const {
    return static_cast<size_t>(allocated_.current);
  }

  size_t free_bytes() const {
    const auto reserved = static_cast<size_t>(reserved_.current);
    return capacity_ > reserved ? capacity_ - reserved : 0;
  }

  void count(size_t bytes) {
    blocks_.increase(1);
    allocated_.increase(bytes);
    if (allocated_.current > reserved_.current) {
      reserved_.increase(allocated_.current - reserved_.current);
    }
  }

  // Worded as CUDA's caching allocator words it, because programs read numbers out of that text.
  [[noreturn]] void raise_out_of_memory(size_t requested) const {
    using c10::CachingAllocator::format_size;
    const size_t idle = reserved_.current - allocated_.current;
    const std::string allowed = fraction_ < 1.0 ? format_size(limit()) + " allowed; " : "";
    TORCH_CHECK_WITH(
        OutOfMemoryError,
        false,
        "testdev out of memory. Tried to allocate ",
        format_size(requested),
        ". GPU 0 has a total capacity of ",
        format_size(capacity_),
        " of which ",
        format_size(free_bytes()),
        " is free. ",
        allowed,
        "Of the allocated memory ",
        format_size(live_bytes()),
        " is allocated by PyTorch, and ",
        format_size(idle),
        " is reserved by PyTorch but unallocated.");
    std::abort();  // Never reached: the check above always throws, which the compiler can't know.
  }

  std::mutex mutex_;
  size_t capacity_ = size_t{1} << 30;
  double fraction_ = 1.0;
  c10::CachingAllocator::Stat blocks_, allocated_, reserved_;
  int64_t out_of_memory_count_ = 0;
};

// Never destroyed: tensors that outlive static destruction at exit still give their blocks back.
LimitedAllocator& allocator() {
  static auto* instance = new LimitedAllocator;
  return *instance;
}

void release_block(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  allocator().forget(*block);
  std::free(block->data);
}

// ---------------------------------------------------------------------------------------------
// The device: one of it, one stream, everything done by the time a call returns
// ---------------------------------------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kType;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    setDevice(device);
    return kDevice;
  }
  c10::Device getDevice() const override {
    return kDevice;
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() <= 0, "testdev has one device, index 0, not ", device.index());
  }
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }

  c10::Stream getStream(c10::Device /*device*/) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return getStream(device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream;
  }
  bool queryStream(const c10::Stream& /*stream*/) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream& /*stream*/) const override {}
  void synchronizeDevice(const c10::DeviceIndex /*device*/) const override {}

  void record(
      void** /*event*/,
      const c10::Stream& /*stream*/,
      const c10::DeviceIndex /*device*/,
      const c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override {
    return true;
  }
  void synchronizeEvent(void* /*event*/) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

void resize_storage(const c10::Storage& storage, size_t bytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  auto fresh = allocator().allocate(bytes);
  const size_t kept = std::min(bytes, impl->nbytes());
  if (kept > 0) {
    std::memcpy(fresh.get(), impl->data(), kept);
  }
  impl->set_data_ptr_noswap(std::move(fresh));
  impl->set_nbytes(bytes);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  void setCurrentDevice(c10::DeviceIndex /*device*/) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex /*device*/) const override {
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex /*device*/) const override {
    return 0;
  }
  // There is no faster way to the device than plain host memory.
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(c10::DeviceType::CPU);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage, bytes);
  }
};

// ---------------------------------------------------------------------------------------------
// Kernels: making, viewing and copying tensors, and convolution
// ---------------------------------------------------------------------------------------------

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(
    IntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> /*layout*/,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/,
    std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator(), kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    IntArrayRef size,
    IntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> /*layout*/,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/) {
  return at::detail::empty_strided_generic(size, stride, &allocator(), kKeys, c10::dtype_or_default(dtype));
}

// The same bytes seen as a CPU tensor. Valid only while `tensor` lives.
Tensor on_host(const Tensor& tensor) {
  if (tensor.device().is_cpu()) {
    return tensor;
  }
  const auto& storage = tensor.storage();
  const auto elements = static_cast<int64_t>(storage.nbytes() / tensor.element_size());
  const auto options = at::TensorOptions().dtype(tensor.dtype());
  const auto flat = at::from_blob(storage.mutable_data(), {elements}, options);
  return flat.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool /*non_blocking*/) {
  if (from.numel() > 0) {
    on_host(to).copy_(on_host(from));
  }
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

Scalar local_scalar(const Tensor& tensor) {
  return at::_local_scalar_dense(on_host(tensor));
}

Tensor& fill(Tensor& tensor, const Scalar& value) {
  on_host(tensor).fill_(value);
  return tensor;
}

Tensor& zero(Tensor& tensor) {
  on_host(tensor).zero_();
  return tensor;
}

const Tensor& resize(const Tensor& tensor, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto offset = static_cast<size_t>(tensor.storage_offset());
  const size_t bytes = at::detail::computeStorageNbytesContiguous(sizes, tensor.element_size(), offset);
  if (bytes > tensor.storage().nbytes()) {
    resize_storage(tensor.storage(), bytes);
  }
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  if (format.has_value()) {
    impl->empty_tensor_restride(*format);
  }
  return tensor;
}

Tensor& set_storage(
    Tensor& tensor,
    c10::Storage storage,
    int64_t offset,
    IntArrayRef size,
    IntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  if (stride.size() == size.size()) {
    impl->set_sizes_and_strides(size, stride);
  } else {  // no strides given: contiguous
    impl->set_sizes_contiguous(size);
  }
  return tensor;
}

Tensor as_strided(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, size, stride, offset);
}

// PyTorch sends the convolutions of foreign devices to these two, which have no CPU kernel to fall
// back to.
Tensor convolution(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    IntArrayRef stride,
    IntArrayRef padding,
    IntArrayRef dilation,
    bool transposed,
    IntArrayRef output_padding,
    int64_t groups) {
  std::optional<Tensor> host_bias;
  if (bias.has_value() && bias->defined()) {
    host_bias = on_host(*bias);
  }
  const auto output = at::convolution(
      on_host(input),
      on_host(weight),
      host_bias,
      stride,
      padding,
      dilation,
      transposed,
      output_padding,
      groups);
  return output.to(kDevice);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad_output,
    const Tensor& input,
    const Tensor& weight,
    IntArrayRef stride,
    IntArrayRef padding,
    IntArrayRef dilation,
    bool transposed,
    IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> wanted) {
  const auto [for_input, for_weight, for_bias] = at::convolution_backward(
      on_host(grad_output),
      on_host(input),
      on_host(weight),
      IntArrayRef{transposed ? weight.size(1) * groups : weight.size(0)},
      stride,
      padding,
      dilation,
      transposed,
      output_padding,
      groups,
      wanted);
  const auto moved = [](const Tensor& gradient, bool is_wanted) {
    return is_wanted && gradient.defined() ? gradient.to(kDevice) : Tensor();
  };
  return {moved(for_input, wanted[0]), moved(for_weight, wanted[1]), moved(for_bias, wanted[2])};
}

// All else: inputs are copied to the CPU, PyTorch's CPU kernel runs, outputs are copied back.
void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar);
  library.impl("fill_.Scalar", &fill);
  library.impl("zero_", &zero);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, c10::Storage)>(&at::native::set_));
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
  // A view has to share the bytes of its base, so none of these may fall back to the CPU.
  library.impl("as_strided", &as_strided);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  // PyTorch would compose this one of several ops, whose temporaries a real device doesn't have.
  library.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

// Mixed precision: what gains most from it runs in the lower precision, losses in float32, and all
// else in the type of its inputs.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {  // `m` is the name that the macros use
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(conv2d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(scaled_dot_product_attention, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(layer_norm, fp32)
  KERNEL_PRIVATEUSEONE(nll_loss, fp32)
  KERNEL_PRIVATEUSEONE(mse_loss, fp32)
}

// Registered when this library is loaded. The hooks are PyTorch's to keep, so they are never freed.
const bool registered = [] {
  c10::SetAllocator(kType, &allocator());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace testdev

extern "C" {

void testdev_set_capacity(uint64_t bytes) {
  testdev::allocator().set_capacity(bytes);
}

void testdev_set_fraction(double fraction) {
  testdev::allocator().set_fraction(fraction);
}
}
