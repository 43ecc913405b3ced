#include "kernel-iface/linux/kernel_reader.h"

#include "kernel-iface/linux/fd.h"
#include "kernel-iface/linux/iterators.bpf.h" // generated: the compiled programs
#include "kernel-iface/linux/maps.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <tuple>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;

namespace {

/// A mmapable array of the object, seen from here.
template <class T>
class SharedArray {
public:
  SharedArray() = default;
  SharedArray(const SharedArray &) = delete;
  SharedArray &operator=(const SharedArray &) = delete;
  ~SharedArray() {
    if (data_)
      munmap(data_, bytes_);
  }
  bool map(int fd, size_t count) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    bytes_ = (count * sizeof(T) + page - 1) / page * page;
    void *at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
      return false;
    data_ = static_cast<T *>(at);
    return true;
  }
  T &operator[](size_t i) { return data_[i]; }

private:
  T *data_ = nullptr;
  size_t bytes_ = 0;
};

/// Why the kernel does not load programs that read its memory.
LinkError load_error(int error) {
  LinkError out = bpf_error(error, "the kernel does not load the programs that read verified code");
  auto lockdown = llvm::MemoryBuffer::getFileAsStream("/sys/kernel/security/lockdown");
  if (lockdown && (*lockdown)->getBuffer().contains("[confidentiality]"))
    out.note("the kernel is locked down: confidentiality mode hides its memory from BPF")
        .with_hint("boot without lockdown=confidentiality");
  else if (error != EPERM)
    out.with_hint("this needs Linux 6.1 or later with CONFIG_DEBUG_INFO_BTF");
  return out;
}

} // namespace

struct KernelReader::State {
  std::unique_ptr<bpf_object, decltype(&bpf_object__close)> object{nullptr, bpf_object__close};
  SharedArray<copy_request> requests;
  SharedArray<copy_page> pages;

  int map(const char *name) const { return bpf_object__find_map_fd_by_name(object.get(), name); }
  bpf_program *program(const char *name) const {
    return bpf_object__find_program_by_name(object.get(), name);
  }

  template <class Key>
  Error want(const char *name, const Key &key) const {
    const uint32_t yes = 1;
    if (bpf_map_update_elem(map(name), &key, &yes, BPF_ANY) != 0)
      return bpf_error(errno, "too much to capture at once").error();
    return Error::success();
  }

  /// All that an iterator writes.
  Expected<std::vector<uint8_t>> run(const char *name) const {
    auto failed = [&] { return bpf_error(errno, formatv("reading through iterator {0}", name)).error(); };
    std::unique_ptr<bpf_link, decltype(&bpf_link__destroy)> link(
        bpf_program__attach_iter(program(name), nullptr), bpf_link__destroy);
    if (!link)
      return failed();
    Fd iterator(bpf_iter_create(bpf_link__fd(link.get())));
    if (!iterator)
      return failed();
    std::vector<uint8_t> out;
    size_t size = 0;
    for (;;) {
      out.resize(size + (1u << 16));
      const ssize_t got = read(iterator.get(), out.data() + size, out.size() - size);
      if (got < 0 && (errno == EAGAIN || errno == EINTR))
        continue;
      if (got < 0)
        return failed();
      if (got == 0)
        break;
      size += size_t(got);
    }
    out.resize(size);
    return out;
  }

  template <class Record>
  Expected<std::vector<Record>> records(const char *name) const {
    Expected<std::vector<uint8_t>> bytes = run(name);
    if (!bytes)
      return bytes.takeError();
    std::vector<Record> out(bytes->size() / sizeof(Record));
    if (!out.empty())
      std::memcpy(out.data(), bytes->data(), out.size() * sizeof(Record));
    return out;
  }
};

KernelReader::KernelReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
KernelReader::KernelReader(KernelReader &&) noexcept = default;
KernelReader::~KernelReader() = default;

Expected<KernelReader> KernelReader::load() {
  // What goes wrong is returned, not printed.
  [[maybe_unused]] static const libbpf_print_fn_t before = libbpf_set_print(nullptr);
  auto state = std::make_unique<State>();
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "ujit_capture");
  state->object.reset(bpf_object__open_mem(iterators_object, sizeof iterators_object, &options));
  if (!state->object)
    return load_error(errno).error();
  if (const int error = bpf_object__load(state->object.get()))
    return load_error(-error).error();
  if (!state->requests.map(state->map("requests"), copy_page_count) ||
      !state->pages.map(state->map("pages"), copy_page_count))
    return bpf_error(errno, "mapping shared arrays").error();
  return KernelReader(std::move(state));
}

Expected<std::vector<ProgramInKernel>> KernelReader::programs(std::span<const uint32_t> ids) {
  for (uint32_t id : ids)
    if (Error e = state_->want("wanted_programs", id))
      return e;
  Expected<std::vector<uint8_t>> bytes = state_->run("show_program");
  if (!bytes)
    return bytes.takeError();
  std::vector<ProgramInKernel> out;
  size_t at = 0;
  auto take = [&](auto &record) {
    if (bytes->size() - at < sizeof record)
      return false;
    std::memcpy(&record, bytes->data() + at, sizeof record);
    at += sizeof record;
    return true;
  };
  while (at < bytes->size()) {
    ProgramInKernel facts;
    bool whole = take(facts.record);
    for (uint32_t i = 0; whole && i < facts.record.functions; i++)
      whole = take(facts.functions.emplace_back());
    if (!whole)
      return internal_error("the program iterator's records are cut off").error();
    out.push_back(std::move(facts));
  }
  return out;
}

Expected<std::vector<map_record>> KernelReader::maps(std::span<const uint32_t> ids) {
  for (uint32_t id : ids)
    if (Error e = state_->want("wanted_maps", id))
      return e;
  return state_->records<map_record>("show_map");
}

Expected<map_record> KernelReader::map(int fd) {
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0)
    return unsupported(std::string("the kernel says nothing of a map: ") + std::strerror(errno)).error();
  const uint32_t ids[] = {info.id};
  Expected<std::vector<map_record>> records = maps(ids);
  if (!records)
    return records.takeError();
  for (const map_record &r : *records)
    if (r.id == info.id)
      return r;
  return unsupported("the kernel does not list a map that there is").error();
}

Expected<std::vector<link_record>> KernelReader::links() { return state_->records<link_record>("show_link"); }

Expected<std::vector<symbol_record>> KernelReader::symbols(std::span<const uint64_t> addresses,
                                                           std::span<const std::string> names) {
  for (uint64_t address : addresses)
    if (Error e = state_->want("wanted_addresses", address))
      return e;
  for (const std::string &name : names) {
    symbol_key key{};
    if (name.size() > sizeof key.name - 2)
      return input_error("kernel symbol '" + name + "': its name is too long").error();
    std::copy(name.begin(), name.end(), key.name);
    if (Error e = state_->want("wanted_names", key))
      return e;
  }
  return state_->records<symbol_record>("show_symbol");
}

Error KernelReader::copy(std::span<const KernelRange> ranges) {
  std::vector<KernelRange> batch; // by page
  auto flush = [&]() -> Error {
    for (size_t i = 0; i < batch.size(); i++)
      state_->requests[i] = {batch[i].address, uint32_t(batch[i].to.size()), -1};
    uint32_t count = uint32_t(batch.size());
    LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = &count, .ctx_size_in = sizeof count);
    if (bpf_prog_test_run_opts(bpf_program__fd(state_->program("copy_memory")), &run) != 0)
      return bpf_error(errno, "copying kernel memory").error();
    for (size_t i = 0; i < batch.size(); i++) {
      if (state_->requests[i].result != 0)
        return unsupported("kernel memory that should hold verified code or slots cannot be read").error();
      std::memcpy(batch[i].to.data(), state_->pages[i].bytes, batch[i].to.size());
    }
    batch.clear();
    return Error::success();
  };
  for (KernelRange range : ranges)
    while (!range.to.empty()) {
      const size_t size = std::min<size_t>(range.to.size(), copy_page_bytes);
      batch.push_back({range.address, range.to.first(size)});
      range = {range.address + size, range.to.subspan(size)};
      if (batch.size() == copy_page_count)
        if (Error e = flush())
          return e;
    }
  return batch.empty() ? Error::success() : flush();
}

// The verifier replaces a call of bpf_map_update_elem() on a known map by one of the map's own function. Its
// address is in the map's operations, its distance from the base in the instruction.
Expected<uint64_t> KernelReader::call_base() {
  auto id_of = [](int fd, auto info) -> uint32_t {
    uint32_t length = sizeof info;
    return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
  };
  const std::array program_ids{id_of(bpf_program__fd(state_->program("known_call")), bpf_prog_info{})};
  const std::array map_ids{id_of(state_->map("known_call_map"), bpf_map_info{})};
  Expected<std::vector<ProgramInKernel>> programs = this->programs(program_ids);
  if (!programs)
    return programs.takeError();
  Expected<std::vector<map_record>> maps = this->maps(map_ids);
  if (!maps)
    return maps.takeError();
  for (const ProgramInKernel &program : *programs)
    for (const map_record &map : *maps) {
      if (program.record.id != program_ids[0] || map.id != map_ids[0])
        continue;
      std::vector<bpf_insn> insns(program.record.length);
      const std::array range{
          KernelRange{program.record.insnsi,
                      {reinterpret_cast<uint8_t *>(insns.data()), insns.size() * sizeof(bpf_insn)}}};
      if (Error e = copy(range))
        return e;
      for (const bpf_insn &insn : insns)
        if (insn.code == (BPF_JMP | BPF_CALL))
          return map.update - uint64_t(int64_t(insn.imm));
    }
  return internal_error("the iterators do not show the capture's own objects").error();
}

} // namespace ujit
