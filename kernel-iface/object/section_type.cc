// Program types by section name: libbpf's table, and the names that Cilium and tc examples use.
#include "kernel-iface/object/object.h"

#include "llvm/ADT/StringRef.h"

namespace ujit {

namespace {

struct SectionName {
  std::string_view name;
  enum Match : uint8_t {
    exact,
    prefix,      ///< the name, or the name and a '/' and anything
    open_prefix, ///< anything that begins so
  } match;
  ProgType type;
};

constexpr ProgType number(uint32_t n) { return static_cast<ProgType>(n); }

// The first row that matches counts.
constexpr SectionName section_names[] = {
    {"socket", SectionName::open_prefix, ProgType::socket_filter},
    {"sk_reuseport", SectionName::prefix, number(21)},
    {"kprobe", SectionName::prefix, ProgType::kprobe},
    {"kprobe.multi", SectionName::prefix, ProgType::kprobe},
    {"kprobe.session", SectionName::prefix, ProgType::kprobe},
    {"kretprobe", SectionName::prefix, ProgType::kprobe},
    {"kretprobe.multi", SectionName::prefix, ProgType::kprobe},
    {"uprobe", SectionName::prefix, ProgType::kprobe},
    {"uprobe.s", SectionName::prefix, ProgType::kprobe},
    {"uprobe.multi", SectionName::prefix, ProgType::kprobe},
    {"uretprobe", SectionName::prefix, ProgType::kprobe},
    {"uretprobe.s", SectionName::prefix, ProgType::kprobe},
    {"uretprobe.multi", SectionName::prefix, ProgType::kprobe},
    {"ksyscall", SectionName::prefix, ProgType::kprobe},
    {"kretsyscall", SectionName::prefix, ProgType::kprobe},
    {"usdt", SectionName::prefix, ProgType::kprobe},
    {"tc", SectionName::prefix, ProgType::sched_cls},
    {"tcx", SectionName::prefix, ProgType::sched_cls},
    {"netkit", SectionName::prefix, ProgType::sched_cls},
    {"classifier", SectionName::open_prefix, ProgType::sched_cls},
    {"action", SectionName::open_prefix, ProgType::sched_act},
    {"tracepoint", SectionName::prefix, ProgType::tracepoint},
    {"tp", SectionName::prefix, ProgType::tracepoint},
    {"raw_tracepoint", SectionName::prefix, ProgType::raw_tracepoint},
    {"raw_tp", SectionName::prefix, ProgType::raw_tracepoint},
    {"raw_tracepoint.w", SectionName::prefix, number(24)},
    {"raw_tp.w", SectionName::prefix, number(24)},
    {"tp_btf", SectionName::prefix, ProgType::tracing},
    {"fentry", SectionName::prefix, ProgType::tracing},
    {"fentry.s", SectionName::prefix, ProgType::tracing},
    {"fexit", SectionName::prefix, ProgType::tracing},
    {"fexit.s", SectionName::prefix, ProgType::tracing},
    {"fmod_ret", SectionName::prefix, ProgType::tracing},
    {"fmod_ret.s", SectionName::prefix, ProgType::tracing},
    {"iter", SectionName::prefix, ProgType::tracing},
    {"iter.s", SectionName::prefix, ProgType::tracing},
    {"freplace", SectionName::prefix, number(28)},
    {"lsm", SectionName::prefix, number(29)},
    {"lsm.s", SectionName::prefix, number(29)},
    {"lsm_cgroup", SectionName::prefix, number(29)},
    {"struct_ops", SectionName::prefix, number(27)},
    {"syscall", SectionName::prefix, number(31)},
    {"netfilter", SectionName::prefix, number(32)},
    {"xdp", SectionName::open_prefix, ProgType::xdp},
    {"perf_event", SectionName::open_prefix, ProgType::perf_event},
    {"lwt_in", SectionName::open_prefix, number(10)},
    {"lwt_out", SectionName::open_prefix, number(11)},
    {"lwt_xmit", SectionName::open_prefix, number(12)},
    {"lwt_seg6local", SectionName::open_prefix, number(19)},
    {"sk_skb", SectionName::open_prefix, number(14)},
    {"sk_msg", SectionName::open_prefix, number(16)},
    {"sk_lookup", SectionName::open_prefix, number(30)},
    {"sockops", SectionName::open_prefix, number(13)},
    {"lirc_mode2", SectionName::open_prefix, number(20)},
    {"flow_dissector", SectionName::open_prefix, number(22)},
    {"cgroup_skb", SectionName::prefix, ProgType::cgroup_skb},
    {"cgroup/skb", SectionName::prefix, ProgType::cgroup_skb},
    {"cgroup/sock_create", SectionName::exact, number(9)},
    {"cgroup/sock_release", SectionName::exact, number(9)},
    {"cgroup/sock", SectionName::exact, number(9)},
    {"cgroup/post_bind4", SectionName::exact, number(9)},
    {"cgroup/post_bind6", SectionName::exact, number(9)},
    {"cgroup/dev", SectionName::prefix, number(15)},
    {"cgroup/bind", SectionName::open_prefix, number(18)},
    {"cgroup/connect", SectionName::open_prefix, number(18)},
    {"cgroup/sendmsg", SectionName::open_prefix, number(18)},
    {"cgroup/recvmsg", SectionName::open_prefix, number(18)},
    {"cgroup/getpeername", SectionName::open_prefix, number(18)},
    {"cgroup/getsockname", SectionName::open_prefix, number(18)},
    {"cgroup/sysctl", SectionName::prefix, number(23)},
    {"cgroup/getsockopt", SectionName::exact, number(25)},
    {"cgroup/setsockopt", SectionName::exact, number(25)},
    {"sockopt", SectionName::prefix, number(25)},
};

} // namespace

ProgType type_of_section(std::string_view section) {
  llvm::StringRef name(section.data(), section.size());
  name.consume_front("?");
  for (const SectionName &row : section_names) {
    llvm::StringRef rest = name;
    if (rest.consume_front({row.name.data(), row.name.size()}) &&
        (rest.empty() || row.match == SectionName::open_prefix ||
         (row.match == SectionName::prefix && rest.front() == '/')))
      return row.type;
  }
  return ProgType::unspec;
}

} // namespace ujit
