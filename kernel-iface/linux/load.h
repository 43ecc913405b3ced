// A pipeline in the running kernel: maps created and filled, programs verified and loaded, prog arrays
// wired. It serves as the oracle that fused code is compared with, and as the original that an installed
// image falls back to. Nothing is attached, and nothing pinned unless asked for: then all of it is gone when
// the object dies.
//
// Programs are loaded as they are, in object form: what the verifier makes of them is the kernel's
// business. Memory limits of kernels before 5.11 are raised by libbpf when it creates the first map.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/map_contents.h"
#include "translator/program.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ujit {

class EventReader;

struct LoadOptions {
  /// Initial contents by map name, written before any program is loaded, also into frozen maps.
  std::vector<MapSeed> seeds;
  /// Opens a perf ring for every CPU of each perf_event_array, so that bpf_perf_event_output() succeeds
  /// and its samples can be read. Without, it returns -ENOENT.
  bool capture_events = true;
  /// In the BPF file system, e.g. /sys/fs/bpf: maps that are pinned by name are shared there; those that
  /// do not exist yet are created and pinned. Empty: every map is new and nothing is pinned.
  std::string pin_directory;
};

struct TestRunOptions {
  /// Initial context in UAPI form (struct __sk_buff or xdp_md), or empty for zeros. The kernel takes only
  /// what makes sense from outside: of __sk_buff mark, priority, ifindex, cb, tstamp, wire_len, gso_segs,
  /// gso_size; of xdp_md ingress_ifindex and rx_queue_index. Packet pointers are filled in here.
  std::vector<uint8_t> context;
  /// XDP: bytes in front of the packet, a multiple of 4, at most 32.
  std::vector<uint8_t> metadata;
  int instead = -1;    ///< runs this program in the entry's place: a stub of the same type
  uint32_t repeat = 1; ///< runs on one packet buffer; what one run changes the next one sees
  /// Runs there, so that per-CPU values land in a known copy. None: the first CPU that the thread may use.
  std::optional<unsigned> cpu;
};

struct TestRunResult {
  /// Not empty: the kernel does not take this packet for test runs, and why. Nothing ran, the rest is empty.
  std::string not_runnable;
  uint32_t retval = 0;
  std::vector<uint8_t> packet;   ///< as the program left it
  std::vector<uint8_t> metadata; ///< XDP: bytes between data_meta and data
  /// UAPI form. Packet pointers of xdp_md are zero; in __sk_buff, fields outside of reported_context() are as
  /// they were passed in.
  std::vector<uint8_t> context;
  unsigned cpu = 0;         ///< where it ran
  uint32_t duration_ns = 0; ///< of one run, averaged over `repeat`
};

struct ContextRange {
  uint16_t offset, size; ///< bytes of the UAPI struct
};

/// What a test run tells of the fields that programs can write: mark, priority, cb and tstamp of __sk_buff.
/// tc_index, queue_mapping and tc_classid stay hidden.
std::span<const ContextRange> reported_context(ProgType type);

/// What programs sent to user space through one map since it was last asked.
struct EventSamples {
  std::vector<std::vector<uint8_t>>
      samples;       ///< perf: by CPU, then in order; padded by the kernel to 8n+4 bytes
  uint64_t lost = 0; ///< the ring was full
};

/// Whether entries of such a map can be read and written as bytes: not for those that hold programs, maps,
/// sockets, events or rings.
bool has_contents(const Map &map);

/// Owns every fd. Calls on different objects are independent; one object is used by one thread at a time.
class LoadedPipeline {
public:
  LoadedPipeline(LoadedPipeline &&) noexcept;
  LoadedPipeline &operator=(LoadedPipeline &&) noexcept;
  ~LoadedPipeline();

  /// -1 for templates of inner maps, which exist only while their outer maps are created.
  int fd(MapId id) const { return map_fds_[index(id)].get(); }
  int fd(ProgId id) const { return program_fds_[index(id)].get(); }

  /// Runs a program and what it tail-calls on `packet` (Ethernet header first) by BPF_PROG_TEST_RUN.
  /// Errors: program types which have no test run on packets, unknown CPU, a refusal by the kernel that is
  /// not about the packet.
  Expected<TestRunResult> run(ProgId entry, std::span<const uint8_t> packet,
                              const TestRunOptions &options = {}) const;

  /// All entries, sorted by key; of per-CPU maps every possible CPU's value. Elements of arrays that are all
  /// zero are left out: they all exist.
  /// Errors: has_contents() is false.
  Expected<MapContents> read(MapId id) const;

  /// Adds or replaces entries. One value for a per-CPU map goes to every CPU.
  /// Errors: wrong sizes, frozen or full map, has_contents() is false.
  Error write(MapId id, const MapContents &entries);

  /// Takes the samples out of a ringbuf or a captured perf_event_array.
  Expected<EventSamples> drain_events(MapId id);

private:
  friend Expected<LoadedPipeline> load_into_kernel(const Pipeline &, const LoadOptions &);
  LoadedPipeline();

  std::vector<Map> maps_; ///< shapes, without contents
  std::vector<Fd> map_fds_;
  struct LoadedProgram {
    std::string name, object;
    ProgType type;
    bool frags; ///< XDP programs which accept packets in several buffers
  };
  std::vector<LoadedProgram> programs_;
  std::vector<Fd> program_fds_;
  std::vector<std::unique_ptr<EventReader>> events_; ///< by MapId; null where there is none
};

/// Loads everything: maps, contents, seeds, programs, prog-array slots.
/// Errors: bpf() not allowed, with the reason; what the kernel cannot hold or the verifier refuses, each
/// program with the end of the verifier's log and the source line.
Expected<LoadedPipeline> load_into_kernel(const Pipeline &pipeline, const LoadOptions &options = {});

/// A small program of our own, whose maps are named by their descriptors. None: `errno` says why.
Fd load_own_program(uint32_t type, const char *name, std::span<const Insn> insns);

} // namespace ujit
