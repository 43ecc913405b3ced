#include "tests/support/leave_bed.h"

#include "kernel-iface/embedded/helpers.h"
#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/worker.h"
#include "kernel-iface/image/elf.h"
#include "translator/context.h"

#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

#include <cstring>
#include <sys/mman.h>

namespace ujit {

using llvm::formatv;
using llvm::StringRef;
namespace ELF = llvm::ELF;

// --- Loading -----------------------------------------------------------------------------------------

namespace {

uint64_t packet_load(const void *, int32_t offset, uint32_t bytes) {
  const std::optional<uint32_t> value = load_from_packet(offset, bytes * 8);
  return value ? *value : uint64_t(-EFAULT);
}

const void *outside(StringRef name) {
  if (name == "memset")
    return reinterpret_cast<const void *>(&memset);
  if (name == "memcpy")
    return reinterpret_cast<const void *>(&memcpy);
  if (name == "memmove")
    return reinterpret_cast<const void *>(&memmove);
  if (name == "ujit_load_packet")
    return reinterpret_cast<const void *>(&packet_load);
  return reinterpret_cast<const void *>(find_helper_address(std::string_view(name)));
}

} // namespace

LowImage::LowImage(LowImage &&other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), size_(other.size_),
      symbols_(std::move(other.symbols_)) {}

LowImage::~LowImage() {
  if (memory_)
    munmap(memory_, size_);
}

const void *LowImage::find(const std::string &symbol) const {
  auto it = symbols_.find(symbol);
  return it == symbols_.end() ? nullptr : it->second;
}

Expected<LowImage> LowImage::load(std::span<const uint8_t> bytes) {
  Expected<ElfObject> object = read_elf(bytes);
  if (!object)
    return object.takeError();
  constexpr size_t thunk = 16;
  std::vector<size_t> place(object->sections.size());
  size_t size = 0;
  for (size_t i = 1; i < object->sections.size(); ++i)
    if (const ImageElfSection &s = object->sections[i]; s.flags & ELF::SHF_ALLOC) {
      place[i] = size = llvm::alignTo(size, std::max<uint64_t>(s.align, 16));
      size += s.size;
    }
  const size_t thunks = size = llvm::alignTo(size, 16);
  size += object->symbols.size() * thunk;
  LowImage out;
  void *memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  if (memory == MAP_FAILED)
    return internal_error("no memory below 2 GiB").error();
  out.memory_ = static_cast<uint8_t *>(memory);
  out.size_ = size;
  for (size_t i = 1; i < object->sections.size(); ++i)
    if (const ImageElfSection &s = object->sections[i]; s.flags & ELF::SHF_ALLOC && s.type != ELF::SHT_NOBITS)
      memcpy(out.memory_ + place[i], s.contents.data(), s.contents.size());
  std::vector<uint64_t> address(object->symbols.size());
  for (size_t i = 1; i < object->symbols.size(); ++i) {
    const ImageElfSymbol &s = object->symbols[i];
    if (s.defined()) {
      address[i] = reinterpret_cast<uint64_t>(out.memory_) + place[s.section] + s.value;
      out.symbols_[s.name.str()] = reinterpret_cast<const void *>(address[i]);
      continue;
    }
    uint8_t *code = out.memory_ + thunks + i * thunk;
    address[i] = reinterpret_cast<uint64_t>(code);
    if (s.name == "__x86_return_thunk") {
      code[0] = 0xc3;
      continue;
    }
    const void *to = outside(s.name);
    if (!to)
      return input_error("the embedded kernel has no " + s.name.str()).error();
    const uint8_t jump[6] = {0xff, 0x25, 0, 0, 0, 0};
    memcpy(code, jump, sizeof jump);
    memcpy(code + sizeof jump, &to, sizeof to);
  }
  for (size_t i = 1; i < object->sections.size(); ++i) {
    const ImageElfSection &s = object->sections[i];
    if (!(s.flags & ELF::SHF_ALLOC))
      continue;
    for (const Elf::Rela &r : s.relocations) {
      uint8_t *field = out.memory_ + place[i] + r.r_offset;
      const uint64_t target = address[r.getSymbol(false)] + uint64_t(r.r_addend);
      const int64_t distance = int64_t(target - reinterpret_cast<uint64_t>(field));
      const int32_t low = int32_t(target), near = int32_t(distance);
      switch (r.getType(false)) {
      case ELF::R_X86_64_64: memcpy(field, &target, 8); break;
      case ELF::R_X86_64_32S: memcpy(field, &low, 4); break;
      case ELF::R_X86_64_PC32:
      case ELF::R_X86_64_PLT32: memcpy(field, &near, 4); break;
      default:
        return input_error(formatv("relocation type {0} in {1}", uint32_t(r.getType(false)), s.name)).error();
      }
    }
  }
  return out;
}

Expected<LeaveImage> link_for_kernel(const Pipeline &pipeline, LinkOptions options) {
  options.target = LinkTarget::kernel;
  Expected<LinkResult> linked = link(pipeline, options);
  if (!linked)
    return linked.takeError();
  Expected<ImageInfo> info = read_image_info(linked->image.object, "image");
  if (!info)
    return info.takeError();
  return LeaveImage{std::move(*linked), std::move(*info)};
}

// --- The stub ----------------------------------------------------------------------------------------

namespace {

using KernelEntry = uint64_t (*)(void *context, const uint64_t *instance, uint32_t where, void *frame);

/// One job on one kernel.
class StubRun {
public:
  StubRun(const Pipeline &pipeline, std::span<const MapSeed> seeds, const LeaveImage &image,
          const LowImage &code, const LeaveMode &mode)
      : pipeline_(pipeline), seeds_(seeds), image_(image), code_(code), mode_(mode), random_(mode.seed) {}

  Expected<JobRun> run(const Job &job) {
    auto kernel = Kernel::create(pipeline_);
    if (!kernel)
      return kernel.takeError();
    kernel_ = kernel->get();
    if (Error e = kernel_->seed(seeds_))
      return e;
    EmbeddedHost host(*kernel_);
    const ProgType type = pipeline_[job.entry].type;
    Interpreter interpreter(host,
                            type == ProgType::unspec ? InterpreterOptions() : interpreter_options(type));
    interpreter_ = &interpreter;
    make_table();
    JobRun out;
    for (std::vector<uint8_t> input : job.inputs) {
      uint64_t r0 = 0;
      stub_calls_ = 0;
      auto keep = [&](Expected<uint64_t> result) {
        r0 = result ? *result : 0;
        return result;
      };
      Expected<PacketResult> result = [&] {
        if (type != ProgType::unspec)
          return kernel_->run_packet(
              [&](void *context) {
                return keep(enter(job.entry, context, reinterpret_cast<uint64_t>(context), 0));
              },
              table_.data(), type, input);
        static constexpr uint8_t packet[14] = {};
        MemoryContext memory{input.empty() ? nullptr : input.data(), input.size()};
        return kernel_->run_packet(
            [&](void *) {
              return keep(
                  enter(job.entry, &memory, reinterpret_cast<uint64_t>(memory.memory), memory.length));
            },
            table_.data(), ProgType::xdp, packet);
      }();
      if (!result)
        return result.takeError();
      if (type == ProgType::unspec)
        result->packet = std::move(input);
      out.results.push_back(r0);
      out.trace.packets.push_back({std::move(*result), {}});
    }
    out.trace.maps = kernel_->snapshot();
    return out;
  }

  LeaveCounts counts;
  bool recounted = false; ///< LeaveMode::cyclic

private:
  bool chance(unsigned percent) { return random_() % 100 < percent; }

  /// The instance, with slot tables of our own.
  void make_table() {
    const InstanceLayout layout(pipeline_);
    table_ = kernel_->instance_table(layout, 0);
    shown_.resize(pipeline_.maps.size());
    for (uint32_t m = 0; m < pipeline_.maps.size(); ++m)
      if (pipeline_.maps[m].type == MapType::prog_array) {
        shown_[m].resize(pipeline_.maps[m].max_entries);
        table_[layout.offset_of({InstanceSlot::values, m}) / 8] =
            reinterpret_cast<uint64_t>(shown_[m].data());
      }
  }

  /// What the slot really holds.
  const ProgramObject *in_slot(MapId map, uint32_t slot) const {
    return static_cast<const ProgramObject *const *>(kernel_->map(map)->values(0))[slot];
  }

  bool sealed(uint32_t map) const {
    const auto *array = image_.result.graph.array_of(MapId(map));
    return array && array->edges == EdgeKind::sealed;
  }

  /// Slots as the fused code will find them until it leaves.
  void show_slots() {
    static const uint8_t stranger[8] = {};
    for (uint32_t m = 0; m < shown_.size(); ++m)
      for (uint32_t slot = 0; slot < shown_[m].size(); ++slot) {
        const ProgramObject *object = in_slot(MapId(m), slot);
        const bool strange = !sealed(m) && chance(object ? mode_.stranger : mode_.vanished);
        shown_[m][slot] = strange ? static_cast<const void *>(stranger) : object;
      }
  }

  Expected<uint64_t> enter(ProgId program, void *context, uint64_t r1, uint64_t r2) {
    const ImageEntry *entry = nullptr;
    for (const ImageEntry &e : image_.info.entries)
      if (e.program == pipeline_[program].name)
        entry = &e;
    if (!entry) // unfused: the original runs
      return interpreter_->run(pipeline_[program], r1, r2);
    auto *function = reinterpret_cast<KernelEntry>(reinterpret_cast<uintptr_t>(code_.find(entry->symbol)));
    if (!function)
      return internal_error("no symbol " + entry->symbol).error();
    const ImageLeave &leave = *image_.info.leave;
    // What a stub's frame holds before does not matter, and nothing behind it is touched.
    constexpr size_t redzone = 64;
    std::vector<uint8_t> frame(leave.frame_bytes + redzone, uint8_t(random_()));
    const std::vector<uint8_t> untouched(frame.end() - redzone, frame.end());
    uint32_t where = 0;
    for (uint32_t round = 0; round < 10'000; ++round) {
      show_slots();
      const uint64_t code = function(context, table_.data(), where, frame.data());
      if (!std::equal(untouched.begin(), untouched.end(), frame.end() - redzone))
        return internal_error("the leave frame is overrun").error();
      if (!(code >> 63)) {
        if (code >> 32)
          return internal_error(formatv("result {0:x} has more than 32 bits", code)).error();
        return code;
      }
      const uint32_t array = code >> 48 & 0x7fff, slot = uint32_t(code);
      where = code >> 32 & 0xffff;
      if (array >= leave.prog_arrays.size() || where == 0 || where > leave.points.size())
        return internal_error(formatv("left with array {0}, point {1}", array, where)).error();
      ++counts.left;
      const MapId map = *pipeline_.find_map(leave.prog_arrays[array]);
      if (slot >= pipeline_[map].max_entries)
        return internal_error(formatv("left with index {0} out of range", slot)).error();
      if (const ProgramObject *object = in_slot(map, slot)) {
        recounted |= mode_.cyclic;
        if (++stub_calls_ > 33) { // the kernel's own count; the interpreter has only one
          recounted = true;
          return 0;
        }
        Expected<uint64_t> result = enter(ProgId(object->id), context, r1, r2);
        if (!result)
          return result;
        return *result & 0xffffffff;
      }
      ++counts.failed;
    }
    return internal_error("the image is left without end").error();
  }

  const Pipeline &pipeline_;
  std::span<const MapSeed> seeds_;
  const LeaveImage &image_;
  const LowImage &code_;
  const LeaveMode &mode_;
  std::mt19937_64 random_;
  Kernel *kernel_ = nullptr;
  Interpreter *interpreter_ = nullptr;
  unsigned stub_calls_ = 0; ///< in this run
  std::vector<uint64_t> table_;
  std::vector<std::vector<const void *>> shown_; ///< by MapId
};

} // namespace

std::vector<std::string> compare_leaving(const Pipeline &running, std::span<const MapSeed> seeds,
                                         std::span<const Job> jobs, const LeaveImage &image,
                                         const LeaveMode &mode, LeaveCounts &counts) {
  Expected<std::vector<JobRun>> wanted = run_jobs(running, seeds, jobs, nullptr);
  if (!wanted)
    return {"interpreter: " + llvm::toString(wanted.takeError())};
  if (!mode.results.empty())
    for (JobRun &run : *wanted)
      run.results = mode.results;
  auto work = [&] {
    std::string text;
    LeaveCounts sum;
    Expected<LowImage> code = LowImage::load(image.result.image.object);
    if (!code)
      text = llvm::toString(code.takeError()) + "\n";
    for (size_t i = 0; code && i < jobs.size(); ++i) {
      StubRun run(running, seeds, image, *code, mode);
      Expected<JobRun> got = run.run(jobs[i]);
      sum.left += run.counts.left;
      sum.failed += run.counts.failed;
      sum.not_compared += run.recounted;
      if (!got)
        text += llvm::toString(got.takeError()) + "\n";
      else if (!run.recounted)
        for (const std::string &d : differences(running, (*wanted)[i], *got, 0xffffffff))
          if (mode.results.empty() || llvm::StringRef(d).contains("result is"))
            text += running[jobs[i].entry].name + ": " + d + "\n";
    }
    std::vector<uint8_t> out(sizeof sum);
    memcpy(out.data(), &sum, sizeof sum);
    out.insert(out.end(), text.begin(), text.end());
    return out;
  };
  Expected<WorkerResult> done = run_in_worker(work, {.time = std::chrono::seconds(60)});
  if (!done)
    return {llvm::toString(done.takeError())};
  if (auto *fault = std::get_if<WorkerFault>(&*done))
    return {describe(*fault)};
  const auto &bytes = std::get<std::vector<uint8_t>>(*done);
  LeaveCounts sum;
  memcpy(&sum, bytes.data(), sizeof sum);
  counts.left += sum.left;
  counts.failed += sum.failed;
  counts.not_compared += sum.not_compared;
  llvm::SmallVector<StringRef> lines;
  StringRef(reinterpret_cast<const char *>(bytes.data()) + sizeof sum, bytes.size() - sizeof sum)
      .split(lines, '\n', -1, false);
  std::vector<std::string> out;
  for (StringRef line : lines)
    out.push_back(line.str());
  return out;
}

} // namespace ujit
