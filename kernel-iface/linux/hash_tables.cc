// Lookups in fused code search hash tables themselves (lto/lookup.cc), which rests on how the running kernel
// builds them. That is established in three ways, and only all together will do:
//
//   The layout of the structs comes from the kernel's BTF; a member that is missing or moved shows there.
//
//   What the members mean is tried out on maps of our own: keys of several sizes go in and out by bpf(), and
//   after each step the table's memory is searched with that layout, from seed and buckets on: hash function,
//   choice of the bucket, chains and the marks they end with, place of key and value. One key that is found
//   and should not be, or not found and should be, and the kernel is not known.
//
//   What readers have to observe beside (RCU alone, no lock, no counter, restart behind a wrong mark) no
//   table at rest shows. It has been the same from 4.11 on, and was read in the sources
//   (sources_were_read()). Point releases of those kernels may differ in layout, which the first two ways
//   see; no later kernel is taken.
#include "kernel-iface/linux/hash_tables.h"

#include "kernel-iface/embedded/jhash.h"
#include "kernel-iface/linux/fd.h"
#include "kernel-iface/linux/kernel_version.h"
#include "translator/instance.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

namespace ujit {

namespace {

constexpr uint32_t entries = 16, keys = 12, value_size = 8;

struct Kind {
  bpf_map_type type;
  uint32_t flags = 0;
};
constexpr Kind kinds[] = {{BPF_MAP_TYPE_HASH},
                          {BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC},
                          {BPF_MAP_TYPE_LRU_HASH},
                          {BPF_MAP_TYPE_PERCPU_HASH},
                          {BPF_MAP_TYPE_LRU_PERCPU_HASH}};
constexpr uint32_t key_sizes[] = {4, 13, 24, 40}; // jhash() takes 12 bytes a turn, and the rest

bool per_cpu(const Kind &kind) {
  return kind.type == BPF_MAP_TYPE_PERCPU_HASH || kind.type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

/// One map, and its memory as code of ours sees it.
class Trial {
public:
  Trial(KernelReader &reader, const HashLayout &layout, const Kind &kind, uint32_t key_size)
      : reader_(reader), layout_(layout), kind_(kind), key_size_(key_size),
        values_(size_t(per_cpu(kind) ? std::max(libbpf_num_possible_cpus(), 1) : 1)) {}

  bool run() {
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = kind_.flags);
    map_ = Fd(bpf_map_create(kind_.type, "ujit_trial", key_size_, value_size, entries, &options));
    if (!map_ || !find_table())
      return false;
    for (uint32_t n = 0; n < keys; ++n) {
      std::ranges::fill(values_, value_of(n));
      if (bpf_map_update_elem(map_.get(), key(n).data(), values_.data(), BPF_ANY) != 0)
        return false;
    }
    if (!agrees())
      return false;
    for (uint32_t n = 0; n < keys; n += 3)
      bpf_map_delete_elem(map_.get(), key(n).data()); // an LRU map may have dropped it before
    return agrees();
  }

private:
  /// Bytes of no regularity that a weaker hash function would share.
  std::vector<uint8_t> key(uint32_t n) const {
    std::vector<uint8_t> out(key_size_);
    for (uint32_t i = 0; i < key_size_; ++i)
      out[i] = uint8_t((n + 1) * (2 * i + 77) >> (i % 3));
    return out;
  }
  static uint64_t value_of(uint32_t n) { return 0x1122334455660000 + n; }

  bool find_table() {
    Expected<map_record> record = reader_.map(map_.get());
    if (!record) {
      llvm::consumeError(record.takeError());
      return false;
    }
    record_ = *record;
    return record_.buckets && record_.bucket_count == entries;
  }

  /// Every key is found in memory exactly if bpf() finds it, also those that were never there.
  bool agrees() {
    std::set<uint64_t> places;
    for (uint32_t n = 0; n < 2 * keys; ++n) {
      const bool there = bpf_map_lookup_elem(map_.get(), key(n).data(), values_.data()) == 0;
      std::vector<uint8_t> value(value_size);
      const std::optional<bool> found = search(key(n), value);
      if (!found || *found != there)
        return false;
      uint64_t v;
      std::memcpy(&v, value.data(), sizeof v);
      if (there && (per_cpu(kind_) ? v == 0 || v % 8 || !places.insert(v).second : v != value_of(n)))
        return false;
    }
    return true;
  }

  /// As lto/lookup.cc does it. None: this is no table as we know it. `value`: what is at the value's place.
  std::optional<bool> search(std::span<const uint8_t> key, std::span<uint8_t> value) {
    const uint32_t hash = jhash(key.data(), key_size_, record_.hash_seed);
    const uint32_t bucket = hash & (record_.bucket_count - 1);
    const uint32_t stride = uint32_t(array_stride(key_size_));
    std::vector<uint8_t> node(layout_.key + stride + value_size);
    uint64_t next = 0;
    if (!copy(record_.buckets + uint64_t(bucket) * layout_.bucket, as_bytes(next)))
      return std::nullopt;
    for (uint32_t steps = 0; !(next & 1); ++steps) {
      if (steps == entries || !copy(next, node))
        return std::nullopt;
      auto word = [&](auto &out, uint32_t at) { std::memcpy(&out, node.data() + at, sizeof out); };
      uint32_t its_hash = 0;
      word(its_hash, layout_.hash);
      const uint8_t *its_key = node.data() + layout_.key;
      if (its_hash == hash && std::equal(key.begin(), key.end(), its_key)) {
        // Memory of preallocated elements began as zeros: a value that is packed closer would show here.
        if (!(kind_.flags & BPF_F_NO_PREALLOC) &&
            std::any_of(its_key + key_size_, its_key + stride, [](uint8_t b) { return b != 0; }))
          return std::nullopt;
        std::copy_n(its_key + stride, value_size, value.begin());
        return true;
      }
      word(next, layout_.chain);
    }
    if (next != hash_end_mark(bucket))
      return std::nullopt;
    return false;
  }

  static std::span<uint8_t> as_bytes(uint64_t &word) {
    return {reinterpret_cast<uint8_t *>(&word), sizeof word};
  }
  bool copy(uint64_t address, std::span<uint8_t> to) {
    const KernelRange range[] = {{address, to}};
    Error e = reader_.copy(range);
    const bool failed = bool(e);
    llvm::consumeError(std::move(e));
    return !failed;
  }

  KernelReader &reader_;
  const HashLayout &layout_;
  Kind kind_;
  uint32_t key_size_;
  std::vector<uint64_t> values_; ///< one, or one a CPU
  Fd map_;
  map_record record_{};
};

/// Members that are far apart are no struct of ours: what is read per node stays small.
bool plausible(const HashLayout &l) {
  return l.bucket >= 8 && l.bucket <= 256 && l.key <= 256 && l.hash + 4 <= l.key && l.chain + 8 <= l.key &&
         l.referenced < l.key && l.key % 8 == 0 && l.chain % 8 == 0 && l.hash % 4 == 0;
}

} // namespace

bool can_search_tables(KernelReader &reader, const HashLayout &layout, std::string_view release) {
  if (!sources_were_read(release) || !plausible(layout))
    return false;
  for (const Kind &kind : kinds)
    for (uint32_t size : key_sizes)
      if (!Trial(reader, layout, kind, size).run())
        return false;
  return true;
}

} // namespace ujit
