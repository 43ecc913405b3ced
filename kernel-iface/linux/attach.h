// Where entries are attached: XDP on an interface (a bpf_link or netlink), clsact filters, tcx. Each exchange
// of a program for another is one system call that the kernel makes atomic, and names the program that it
// expects to find, so nobody's change is undone unseen. The exceptions are clsact filters
// and slots, whose replacement names no expectation: they are looked at immediately before.
#pragma once

#include "kernel-iface/linux/fd.h"
#include "translator/program.h"

#include <optional>
#include <string>
#include <string_view>

namespace ujit {

enum class HookKind : uint8_t {
  xdp,
  xdp_generic,
  tc_ingress,
  tc_egress,
  tcx_ingress,
  tcx_egress,
  slot /* of a prog array */
};
std::string_view name_of(HookKind hook);
std::optional<HookKind> hook_by_name(std::string_view name);
/// Programs that can be attached there; none for slots, which take their array's type.
std::optional<ProgType> type_of(HookKind hook);

struct AttachPoint {
  std::string interface;
  uint32_t ifindex = 0; ///< by which it is found; the name may change
  HookKind hook = HookKind::xdp;
  uint32_t priority = 0, handle = 0; ///< clsact filters
  uint32_t link_id = 0;              ///< 0: attached without a bpf_link
  uint32_t map_id = 0, slot = 0;     ///< slots; `interface` is then the map's name
  friend bool operator==(const AttachPoint &, const AttachPoint &) = default;
};

/// "eth0 xdp", "eth0 tc-ingress prio 1 handle 1", "jmp_table[3]"
std::string describe(const AttachPoint &point);

/// Id of the program that is attached there now; none where nothing is.
Expected<std::optional<uint32_t>> attached_at(const AttachPoint &point);

struct AttachedProgram;

/// Where a program that is attached to `interface` is.
AttachPoint attach_point(const std::string &interface, const AttachedProgram &attached);

/// Fills in what identifies the program that is attached at `point` now: the interface's number, a filter's
/// priority and handle (the first one where none is given), the link. Slots: the map, by its name in
/// `interface`. Errors: no such interface or map, or several maps of that name.
Error complete(AttachPoint &point);

/// Fills in what will identify a fresh attachment: number `n` of ours. Known before attaching, so that it can
/// be written down first. Errors: no such interface.
Error choose_place(AttachPoint &point, size_t n);

/// Attaches where nothing of ours is yet. XDP: `point` must be free. tc: a clsact filter of its own (priority
/// and handle are chosen where 0), or tcx at the end. Returns the point with what was chosen and, for hooks
/// that have one, the link, which must be pinned or kept open: the attachment ends with its last reference.
struct Attachment {
  AttachPoint point;
  Fd link; ///< none: attached by netlink, stays until detached
};
Expected<Attachment> attach(AttachPoint point, int program_fd);

/// Puts `new_fd` in place of the program with `expected_id`. Errors: another program is there now.
Error exchange(const AttachPoint &point, uint32_t expected_id, int new_fd);

/// Detaches the program with `expected_id`; it is no error that it is gone already. Links are closed or
/// unpinned by their owner instead.
Error detach(const AttachPoint &point, uint32_t expected_id);

} // namespace ujit
