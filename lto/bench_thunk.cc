#include "lto/bench_thunk.h"

#include "llvm/ADT/StringSwitch.h"

#include <sys/mman.h>

#include <cstring>

namespace ujit {

namespace {

// call 1f; ud2; 1: lea 8(%rsp), %rsp; ret; int3
constexpr uint8_t thunk_bytes[] = {0xe8, 0x02, 0x00, 0x00, 0x00, 0x0f, 0x0b, 0x48,
                                   0x8d, 0x64, 0x24, 0x08, 0xc3, 0xcc, 0xcc, 0xcc};
constexpr size_t region_bytes = 1 << 20;

/// How many functions of the kernel return when a helper is called: those with a symbol of their own in
/// /proc/kallsyms of 6.1 to 6.18, on the path that a datapath takes. A hash lookup: __htab_map_lookup_elem,
/// htab_map_hash, lookup_nulls_elem_raw, memcmp.
unsigned returns_of(std::string_view helper) {
  return llvm::StringSwitch<unsigned>(helper)
      .Case("bpf_map_lookup_elem", 4)
      .Cases("bpf_map_update_elem", "bpf_map_delete_elem", 5)
      .Cases("bpf_skb_store_bytes", "bpf_l3_csum_replace", "bpf_l4_csum_replace", 2)
      .Case("bpf_csum_diff", 2)
      .Default(1);
}

void put(uint8_t *&to, std::initializer_list<uint8_t> bytes) {
  memcpy(to, bytes.begin(), bytes.size());
  to += bytes.size();
}

void put_distance(uint8_t *&to, const uint8_t *target) {
  const auto distance = int32_t(target - (to + 4));
  memcpy(to, &distance, 4);
  to += 4;
}

} // namespace

std::span<const uint8_t> return_thunk() { return thunk_bytes; }

Expected<std::unique_ptr<ReturnThunks>> ReturnThunks::create() {
  void *memory =
      mmap(nullptr, region_bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return unsupported("no memory for return thunks").error();
  std::unique_ptr<ReturnThunks> out(new ReturnThunks);
  out->base_ = static_cast<uint8_t *>(memory);
  out->next_ = out->base_ + 64;
  memcpy(out->base_, thunk_bytes, sizeof thunk_bytes);
  // Behind it a function that only returns, for the kernel's inner functions.
  uint8_t *inner = out->base_ + 32;
  put(inner, {0xe9});
  put_distance(inner, out->base_);
  return out;
}

ReturnThunks::~ReturnThunks() { munmap(base_, region_bytes); }

std::pair<uint64_t, uint64_t> ReturnThunks::range() const {
  return {reinterpret_cast<uint64_t>(base_), region_bytes};
}

/// call *target(%rip); call inner, again and again; jmp thunk; the target's address.
uint8_t *ReturnThunks::stub(uint64_t target, unsigned returns) {
  uint8_t *&known = stubs_[{target, returns}];
  if (known)
    return known;
  const size_t size = 6 + 5 * (returns - 1) + 5, rounded = (size + 15) & ~size_t(7);
  if (next_ + rounded + 32 > base_ + region_bytes)
    return nullptr;
  uint8_t *at = known = next_, *address = next_ + ((size + 7) & ~size_t(7));
  put(at, {0xff, 0x15});
  put_distance(at, address);
  for (unsigned i = 1; i < returns; ++i) {
    put(at, {0xe8});
    put_distance(at, base_ + 32);
  }
  put(at, {0xe9});
  put_distance(at, base_);
  memcpy(address, &target, 8);
  next_ = base_ + ((size_t(address + 8 - base_) + 15) & ~size_t(15));
  return known;
}

HelperFunction *ReturnThunks::helper(std::string_view name, HelperFunction *function) {
  if (!function)
    return nullptr;
  return reinterpret_cast<HelperFunction *>(stub(reinterpret_cast<uint64_t>(function), returns_of(name)));
}

NativeEntry ReturnThunks::entry(NativeEntry function) {
  return reinterpret_cast<NativeEntry>(stub(reinterpret_cast<uint64_t>(function), 1));
}

} // namespace ujit
