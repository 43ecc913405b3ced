#include "kernel-iface/embedded/interpreter_host.h"
#include "kernel-iface/embedded/slot_maps.h"
#include "translator/helper.h"

#include "llvm/Support/FormatVariadic.h"

#include <linux/filter.h>

namespace ujit {

EmbeddedHost::EmbeddedHost(Kernel &kernel) : kernel_(kernel) {
  for (const Helper &helper : helper_table()) {
    if (helpers_.size() <= helper.id)
      helpers_.resize(helper.id + 1);
    helpers_[helper.id] = find_helper_address(helper.name);
  }
}

static Error no_such_map(MapId id) {
  return input_error(llvm::formatv("map #{0} does not exist in the embedded kernel", index(id))).error();
}

Expected<uint64_t> EmbeddedHost::map_address(MapId id) {
  if (index(id) >= kernel_.pipeline().maps.size() || !kernel_.map(id))
    return no_such_map(id);
  return reinterpret_cast<uint64_t>(kernel_.map(id));
}

Expected<uint64_t> EmbeddedHost::map_value_address(MapId id, uint64_t offset) {
  if (index(id) >= kernel_.pipeline().maps.size() || !kernel_.map(id))
    return no_such_map(id);
  MapObject &map = *kernel_.map(id);
  void *values = map.shape().type == MapType::array ? map.values(0) : nullptr;
  if (!values || offset >= map.shape().value_size)
    return input_error(
               llvm::formatv("map {0}: byte {1} of its value has no address", map.shape().name, offset))
        .error();
  return reinterpret_cast<uint64_t>(values) + offset;
}

Expected<uint64_t> EmbeddedHost::call_helper(Interpreter &interpreter, uint32_t id,
                                             const std::array<uint64_t, 5> &args) {
  HelperFunction *helper = id < helpers_.size() ? helpers_[id] : nullptr;
  if (!helper) {
    const Helper *known = find_helper(id);
    return unsupported(llvm::formatv("helper {0} (#{1}) is not supported in the embedded kernel",
                                     known ? known->name : "of unknown name", id))
        .error();
  }
  Cpu &cpu = *current_cpu;
  Interpreter *outer = std::exchange(cpu.interpreter, &interpreter);
  uint64_t result = helper(args[0], args[1], args[2], args[3], args[4]);
  cpu.interpreter = outer;
  if (std::optional<Error> error = std::exchange(cpu.callback_error, std::nullopt))
    return std::move(*error);
  return result;
}

const Program *EmbeddedHost::tail_call_target(uint64_t map, uint32_t index) {
  auto *slots = dynamic_cast<ProgArrayMap *>(reinterpret_cast<MapObject *>(map));
  const ProgramObject *target = slots ? slots->get(index) : nullptr;
  return target ? &kernel_.pipeline().programs[target->id] : nullptr;
}

std::optional<uint64_t> EmbeddedHost::load_packet(uint64_t, int32_t offset, unsigned bits) {
  return load_from_packet(offset, bits);
}

std::optional<uint32_t> load_from_packet(int32_t offset, unsigned bits) {
  const Packet &packet = current_cpu->packet;
  int64_t at = offset;
  if (offset < 0 && offset >= SKF_NET_OFF)
    at = int64_t(offset) - SKF_NET_OFF + packet.network_offset();
  else if (offset < 0 && offset >= SKF_LL_OFF)
    at = int64_t(offset) - SKF_LL_OFF + packet.mac_offset();
  else if (offset < 0)
    return std::nullopt;
  // Bytes in front of data() are there for programs that see no link header: only the headers may be read.
  if (at < std::min(packet.mac_offset(), 0) || at + bits / 8 > int64_t(packet.size()))
    return std::nullopt;
  uint32_t value = 0;
  for (unsigned i = 0; i < bits / 8; i++)
    value = value << 8 | packet.data()[at + i];
  return value;
}

InterpreterOptions interpreter_options(ProgType type) {
  InterpreterOptions options;
  options.context_size = type == ProgType::xdp ? sizeof(XdpContext) : sizeof(SkbContext);
  return options;
}

Expected<PacketResult> run_interpreted(Kernel &kernel, Interpreter &interpreter, ProgId entry,
                                       std::span<const uint8_t> packet, uint32_t cpu) {
  const Program &program = kernel.pipeline()[entry];
  auto run = [&](void *context) { return interpreter.run(program, reinterpret_cast<uint64_t>(context)); };
  return kernel.run_packet(run, nullptr, program.type, packet, cpu);
}

} // namespace ujit
