#include "kernel-iface/linux/attach.h"

#include "kernel-iface/linux/capture.h"
#include "kernel-iface/linux/clsact.h"
#include "kernel-iface/linux/maps.h"

#include "llvm/Support/FormatVariadic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <net/if.h>

#include <cerrno>
#include <cstring>

namespace ujit {

using llvm::formatv;

namespace {

// Not in the headers of kernels before 6.6.
constexpr auto attach_tcx_ingress = bpf_attach_type(46), attach_tcx_egress = bpf_attach_type(47);

struct HookRow {
  HookKind kind;
  std::string_view name;
};
constexpr HookRow hooks[] = {{HookKind::xdp, "xdp"},
                             {HookKind::xdp_generic, "xdp-generic"},
                             {HookKind::tc_ingress, "tc-ingress"},
                             {HookKind::tc_egress, "tc-egress"},
                             {HookKind::tcx_ingress, "tcx-ingress"},
                             {HookKind::tcx_egress, "tcx-egress"},
                             {HookKind::slot, "slot"}};

bool is_xdp(HookKind k) { return k == HookKind::xdp || k == HookKind::xdp_generic; }
bool is_clsact(HookKind k) { return k == HookKind::tc_ingress || k == HookKind::tc_egress; }
bpf_attach_type tcx_type(HookKind k) {
  return k == HookKind::tcx_ingress ? attach_tcx_ingress : attach_tcx_egress;
}
uint32_t xdp_flags(HookKind k) { return k == HookKind::xdp ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE; }

ClsactSide side_of(HookKind k) {
  return k == HookKind::tc_ingress ? ClsactSide::ingress : ClsactSide::egress;
}

bpf_tc_hook clsact_hook(const AttachPoint &p) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = int(p.ifindex);
  hook.attach_point = p.hook == HookKind::tc_ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS;
  return hook;
}

/// The filter at `p`, or none.
Expected<std::optional<ClsactFilter>> find_filter(const AttachPoint &p) {
  Expected<std::vector<ClsactFilter>> all = clsact_filters(p.ifindex, side_of(p.hook));
  if (!all)
    return all.takeError();
  for (ClsactFilter &f : *all)
    if (f.priority == p.priority && f.handle == p.handle)
      return std::optional(std::move(f));
  return std::optional<ClsactFilter>();
}

/// What a stub cannot stand for: it gives the program's verdict, and the kernel does nothing beside.
Error check_filter(const AttachPoint &p) {
  Expected<std::optional<ClsactFilter>> filter = find_filter(p);
  if (!filter)
    return filter.takeError();
  if (!*filter)
    return Error::success();
  const ClsactFilter &f = **filter;
  auto refuse = [&](const char *why) {
    return unsupported(formatv("{0}: {1}", describe(p), why))
        .with_hint("filters whose program alone decides can be exchanged: `tc filter ... bpf direct-action`")
        .error();
  };
  if (!f.direct_action)
    return refuse("the filter is not direct-action: its program gives the class of packets, no verdict");
  if (f.actions)
    return refuse("the filter has actions of its own");
  if (f.offload & TCA_CLS_FLAGS_SKIP_SW)
    return refuse("the filter is run by the device alone");
  return Error::success();
}

Error refused(const AttachPoint &p, const char *what, int error) {
  LinkError e = bpf_error(error, formatv("{0} {1}", what, describe(p)));
  if (error == EBUSY || error == EEXIST)
    e = std::move(e).with_hint("another program is attached there; see `bpftool net`");
  if (error == EOPNOTSUPP && p.hook == HookKind::xdp)
    e = std::move(e).with_hint("the driver has no native XDP: use the hook xdp-generic");
  return e.error();
}

Error changed(const AttachPoint &p, std::optional<uint32_t> now, uint32_t expected) {
  return input_error(formatv("{0}: program {1} was expected there, but {2}", describe(p), expected,
                             now ? "program " + std::to_string(*now) + " is" : "none is"))
      .with_hint("somebody else has changed it meanwhile; nothing was done to it")
      .error();
}

Expected<Fd> map_by_id(uint32_t id) {
  Fd fd(bpf_map_get_fd_by_id(id));
  if (!fd)
    return bpf_error(errno, formatv("opening map {0}", id)).error();
  return fd;
}

Error set_slot(const AttachPoint &p, int program_fd) {
  Expected<Fd> map = map_by_id(p.map_id);
  if (!map)
    return map.takeError();
  if (int e = bpf_map_update_elem(map->get(), &p.slot, &program_fd, BPF_ANY))
    return refused(p, "putting a program into", -e);
  return Error::success();
}

Expected<Fd> program_by_id(uint32_t id) {
  Fd fd(bpf_prog_get_fd_by_id(id));
  if (!fd)
    return bpf_error(errno, formatv("opening program {0}", id)).error();
  return fd;
}

} // namespace

std::string_view name_of(HookKind hook) { return hooks[size_t(hook)].name; }

std::optional<HookKind> hook_by_name(std::string_view name) {
  for (const HookRow &row : hooks)
    if (row.name == name)
      return row.kind;
  return std::nullopt;
}

std::optional<ProgType> type_of(HookKind hook) {
  if (hook == HookKind::slot)
    return std::nullopt;
  return is_xdp(hook) ? ProgType::xdp : ProgType::sched_cls;
}

std::string describe(const AttachPoint &p) {
  if (p.hook == HookKind::slot)
    return formatv("{0}[{1}]", p.interface, p.slot);
  std::string r = formatv("{0} {1}", p.interface, name_of(p.hook));
  if (is_clsact(p.hook) && p.priority)
    r += formatv(" prio {0} handle {1}", p.priority, p.handle).str();
  return r;
}

Expected<std::optional<uint32_t>> attached_at(const AttachPoint &p) {
  if (p.link_id) {
    Fd link(bpf_link_get_fd_by_id(p.link_id));
    if (!link)
      return std::optional<uint32_t>();
    bpf_link_info info{};
    uint32_t size = sizeof info;
    if (int e = bpf_obj_get_info_by_fd(link.get(), &info, &size))
      return bpf_error(-e, "reading link of " + describe(p)).error();
    return std::optional(info.prog_id);
  }
  if (is_xdp(p.hook)) {
    LIBBPF_OPTS(bpf_xdp_query_opts, found);
    if (int e = bpf_xdp_query(int(p.ifindex), 0, &found)) {
      if (e == -ENODEV || e == -ENXIO)
        return std::optional<uint32_t>();
      return bpf_error(-e, "asking for the program at " + describe(p)).error();
    }
    uint32_t id = p.hook == HookKind::xdp ? found.drv_prog_id : found.skb_prog_id;
    return id ? std::optional(id) : std::nullopt;
  }
  if (is_clsact(p.hook)) {
    Expected<std::optional<ClsactFilter>> filter = find_filter(p);
    if (!filter)
      return filter.takeError();
    return *filter ? std::optional((*filter)->program_id) : std::nullopt;
  }
  if (p.hook == HookKind::slot) {
    Expected<Fd> map = map_by_id(p.map_id);
    if (!map)
      return map.takeError();
    uint32_t id = 0;
    if (int e = bpf_map_lookup_elem(map->get(), &p.slot, &id)) {
      if (e == -ENOENT)
        return std::optional<uint32_t>();
      return bpf_error(-e, "reading " + describe(p)).error();
    }
    return std::optional(id);
  }
  return std::optional<uint32_t>(); // tcx: nothing that a link of ours holds
}

static HookKind hook_of(const AttachedProgram &a) {
  switch (a.hook) {
  case AttachedProgram::xdp: return a.flags == XDP_ATTACHED_SKB ? HookKind::xdp_generic : HookKind::xdp;
  case AttachedProgram::tc_ingress: return HookKind::tc_ingress;
  case AttachedProgram::tc_egress: return HookKind::tc_egress;
  case AttachedProgram::tcx_ingress: return HookKind::tcx_ingress;
  case AttachedProgram::tcx_egress: return HookKind::tcx_egress;
  }
  return HookKind::xdp;
}

/// The link of an interface that holds this program, or 0.
static uint32_t find_link(const AttachPoint &p, uint32_t program_id) {
  constexpr uint32_t link_type_tcx = 11; // of kernels from 6.6 on
  for (uint32_t id = 0; bpf_link_get_next_id(id, &id) == 0;) {
    Fd link(bpf_link_get_fd_by_id(id));
    bpf_link_info info{};
    uint32_t size = sizeof info;
    if (!link || bpf_obj_get_info_by_fd(link.get(), &info, &size) || info.prog_id != program_id)
      continue;
    const bool fits = is_xdp(p.hook) ? info.type == BPF_LINK_TYPE_XDP : info.type == link_type_tcx;
    if (fits && info.xdp.ifindex == p.ifindex) // tcx has it at the same place
      return id;
  }
  return 0;
}

static Error find_prog_array(AttachPoint &p) {
  std::vector<uint32_t> found;
  for (uint32_t id = 0; bpf_map_get_next_id(id, &id) == 0;) {
    Fd map(bpf_map_get_fd_by_id(id));
    bpf_map_info info{};
    uint32_t size = sizeof info;
    if (map && bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0 && info.type == BPF_MAP_TYPE_PROG_ARRAY &&
        p.interface.substr(0, BPF_OBJ_NAME_LEN - 1) == info.name)
      found.push_back(id);
  }
  if (found.size() != 1)
    return input_error(formatv("{0} prog arrays are named '{1}'", found.size(), p.interface))
        .with_hint("`bpftool map` lists them")
        .error();
  p.map_id = found.front();
  return Error::success();
}

static Error find_interface(AttachPoint &p) {
  p.ifindex = if_nametoindex(p.interface.c_str());
  if (p.ifindex == 0)
    return input_error(formatv("there is no interface named '{0}'", p.interface)).error();
  return Error::success();
}

AttachPoint attach_point(const std::string &interface, const AttachedProgram &a) {
  AttachPoint p;
  p.interface = interface;
  p.hook = hook_of(a);
  p.priority = a.priority;
  p.handle = a.handle;
  return p;
}

Error complete(AttachPoint &p) {
  if (p.hook == HookKind::slot)
    return p.map_id ? Error::success() : find_prog_array(p);
  if (Error e = find_interface(p))
    return e;
  Expected<std::vector<AttachedProgram>> attached = attached_programs(p.interface);
  if (!attached)
    return attached.takeError();
  for (const AttachedProgram &a : *attached) {
    if (hook_of(a) != p.hook || (p.priority && a.priority != p.priority) ||
        (p.handle && a.handle != p.handle))
      continue;
    p.priority = a.priority;
    p.handle = a.handle;
    p.link_id = a.by_link ? find_link(p, a.id) : 0;
    if (!p.link_id && !is_xdp(p.hook) && !is_clsact(p.hook))
      return unsupported(formatv("{0}: the program is attached without a link", describe(p)))
          .with_hint("attach it by a bpf_link, whose program can be exchanged")
          .error();
    return is_clsact(p.hook) ? check_filter(p) : Error::success();
  }
  return Error::success();
}

Error choose_place(AttachPoint &p, size_t n) {
  if (p.hook == HookKind::slot)
    return p.map_id ? Error::success() : find_prog_array(p);
  if (Error e = find_interface(p))
    return e;
  if (is_clsact(p.hook)) {
    if (p.priority == 0)
      p.priority = 1;
    if (p.handle == 0)
      p.handle = uint32_t(0x756a0000 + n);
  }
  return Error::success();
}

Expected<Attachment> attach(AttachPoint p, int program_fd) {
  if (p.hook == HookKind::slot) {
    if (Error e = set_slot(p, program_fd))
      return e;
    return Attachment{p, Fd()};
  }
  if (p.ifindex == 0)
    if (Error e = find_interface(p))
      return e;
  if (is_clsact(p.hook)) {
    bpf_tc_hook hook = clsact_hook(p);
    if (int e = bpf_tc_hook_create(&hook); e && e != -EEXIST)
      return refused(p, "creating clsact for", -e);
    LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = program_fd, .handle = p.handle, .priority = p.priority);
    if (int e = bpf_tc_attach(&hook, &filter))
      return refused(p, "attaching at", -e);
    p.handle = filter.handle;
    p.priority = filter.priority;
    return Attachment{p, Fd()};
  }
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = is_xdp(p.hook) ? xdp_flags(p.hook) : 0);
  Fd link(bpf_link_create(program_fd, int(p.ifindex), is_xdp(p.hook) ? BPF_XDP : tcx_type(p.hook), &options));
  if (!link)
    return refused(p, "attaching at", errno);
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (int e = bpf_obj_get_info_by_fd(link.get(), &info, &size))
    return bpf_error(-e, "reading the new link of " + describe(p)).error();
  p.link_id = info.id;
  return Attachment{p, std::move(link)};
}

Error exchange(const AttachPoint &p, uint32_t expected_id, int new_fd) {
  Expected<std::optional<uint32_t>> now = attached_at(p);
  if (!now)
    return now.takeError();
  if (*now != expected_id)
    return changed(p, *now, expected_id);
  if (p.hook == HookKind::slot)
    return set_slot(p, new_fd);
  if (is_clsact(p.hook)) {
    Expected<std::optional<ClsactFilter>> filter = find_filter(p);
    if (!filter)
      return filter.takeError();
    if (!*filter)
      return changed(p, std::nullopt, expected_id);
    return put_clsact_filter(p.ifindex, side_of(p.hook), **filter, new_fd, /*fresh=*/false);
  }
  Expected<Fd> old = program_by_id(expected_id);
  if (!old)
    return old.takeError();
  if (p.link_id) {
    Fd link(bpf_link_get_fd_by_id(p.link_id));
    if (!link)
      return refused(p, "opening the link of", errno);
    LIBBPF_OPTS(bpf_link_update_opts, options, .flags = BPF_F_REPLACE, .old_prog_fd = uint32_t(old->get()));
    if (int e = bpf_link_update(link.get(), new_fd, &options))
      return -e == EPERM ? changed(p, attached_at(p).get(), expected_id)
                         : refused(p, "replacing the program at", -e);
    return Error::success();
  }
  LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = old->get());
  if (int e = bpf_xdp_attach(int(p.ifindex), new_fd, xdp_flags(p.hook) | XDP_FLAGS_REPLACE, &options))
    return refused(p, "replacing the program at", -e);
  return Error::success();
}

Error detach(const AttachPoint &p, uint32_t expected_id) {
  Expected<std::optional<uint32_t>> now = attached_at(p);
  if (!now)
    return now.takeError();
  if (!*now)
    return Error::success();
  if (**now != expected_id)
    return changed(p, *now, expected_id);
  if (p.link_id)
    return internal_error("a link is detached by its owner").error();
  if (p.hook == HookKind::slot) {
    Expected<Fd> map = map_by_id(p.map_id);
    if (!map)
      return map.takeError();
    if (int e = bpf_map_delete_elem(map->get(), &p.slot); e && e != -ENOENT)
      return refused(p, "emptying", -e);
    return Error::success();
  }
  if (is_clsact(p.hook)) {
    bpf_tc_hook hook = clsact_hook(p);
    LIBBPF_OPTS(bpf_tc_opts, filter, .handle = p.handle, .priority = p.priority);
    if (int e = bpf_tc_detach(&hook, &filter); e && e != -ENOENT)
      return refused(p, "detaching from", -e);
    return Error::success();
  }
  Expected<Fd> old = program_by_id(expected_id);
  if (!old)
    return old.takeError();
  LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = old->get());
  if (int e = bpf_xdp_detach(int(p.ifindex), xdp_flags(p.hook) | XDP_FLAGS_REPLACE, &options))
    return refused(p, "detaching from", -e);
  return Error::success();
}

} // namespace ujit
