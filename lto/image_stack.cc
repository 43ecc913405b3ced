// How deep the machine stack can get.
//
// Frame sizes are the compiler's own (`.stack_sizes`), calls are read from the machine code: relocations
// alone do not show them, as the assembler resolves those inside one section. Each function that a root
// reaches is decoded once. A call adds the callee's frame and 8 bytes of return address to the caller's; a
// jump to a function is a tail call, made after the caller's frame is gone, so it replaces it:
//
//     depth(f) = max(frame(f), frame(f) + 8 + depth(callee)..., depth(jump target)...)
//
// What a helper needs is not counted, only its return address; nor is what runs behind a jump or call through
// a register, which leaves the image. Jumps may form cycles (the functions of one then share the largest
// depth), calls may not. The graph is condensed to its strongly connected components, which come callees
// first.
//
// A leaf function that uses the red zone has a smaller frame than it touches: images are compiled without.
#include "kernel-iface/image/elf.h"
#include "lto/image.h"
#include "lto/machine_code.h"

#include "llvm/ADT/GraphTraits.h"
#include "llvm/ADT/SCCIterator.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/LEB128.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

namespace ujit {

using namespace llvm::ELF;
using llvm::formatv;
using llvm::StringRef;

namespace {

constexpr uint64_t return_address = 8;

struct Node {
  StringRef name;
  uint32_t section = 0;
  uint64_t start = 0, end = 0;
  uint64_t frame = 0;
  bool calls_out = false;                       ///< a helper or through a register
  std::vector<Node *> calls{}, jumps{}, next{}; ///< `next` is both
  uint32_t component = 0;
  uint64_t depth = 0;
};

} // namespace
} // namespace ujit

template <>
struct llvm::GraphTraits<ujit::Node *> {
  using NodeRef = ujit::Node *;
  using ChildIteratorType = std::vector<ujit::Node *>::iterator;
  static NodeRef getEntryNode(NodeRef n) { return n; }
  static ChildIteratorType child_begin(NodeRef n) { return n->next.begin(); }
  static ChildIteratorType child_end(NodeRef n) { return n->next.end(); }
};

namespace ujit {
namespace {

using Place = std::pair<uint32_t, uint64_t>; ///< section, offset

class StackAnalysis {
public:
  explicit StackAnalysis(const ElfObject &object) : object_(object) {}

  /// What each function that was reached needs itself: its frame and its calls, but not what it jumps to.
  std::vector<FunctionStack> own() const {
    std::vector<FunctionStack> out;
    for (const Node &n : nodes_) {
      if (n.component == 0)
        continue;
      uint64_t depth = n.frame + (n.calls_out ? return_address : 0);
      for (const Node *callee : n.calls)
        depth = std::max(depth, n.frame + return_address + callee->depth);
      out.push_back({n.name.str(), uint32_t(std::min<uint64_t>(depth, UINT32_MAX)), uint32_t(n.frame)});
    }
    std::ranges::sort(out, {}, &FunctionStack::name);
    return out;
  }

  Expected<uint32_t> run(std::span<const std::string> roots) {
    if (Error e = read_frames())
      return e;
    find_functions();
    Node all; // has every root as a child, so that one walk covers them
    for (const std::string &root : roots) {
      auto it = by_name_.find(root);
      if (it == by_name_.end())
        return internal_error(formatv("stack depth of {0}: no such function", root)).error();
      all.next.push_back(it->second);
    }
    for (Node *n : all.next)
      reach(n);
    while (!todo_.empty()) {
      Node *n = todo_.back();
      todo_.pop_back();
      if (Error e = decode(*n))
        return e;
    }
    if (Error e = solve(all))
      return e;
    uint64_t worst = 0;
    for (Node *n : all.next)
      worst = std::max(worst, return_address + n->depth);
    if (worst > UINT32_MAX)
      return internal_error("stack depth exceeds 4 GiB").error();
    return uint32_t(worst);
  }

private:
  /// Entries of `.stack_sizes`: address (8 bytes, relocated), frame size (ULEB128).
  Error read_frames() {
    for (const ImageElfSection &s : object_.sections) {
      if (s.name != ".stack_sizes")
        continue;
      std::map<uint64_t, Place> address_at;
      for (const Elf::Rela &r : s.relocations) {
        const ImageElfSymbol &symbol = object_.symbols[r.getSymbol(false)];
        address_at[r.r_offset] = {symbol.section, symbol.value + uint64_t(r.r_addend)};
      }
      for (uint64_t at = 0; at < s.contents.size();) {
        auto place = address_at.find(at);
        if (place == address_at.end() || s.contents.size() - at < 8)
          return malformed(at);
        at += 8;
        unsigned length = 0;
        const char *problem = nullptr;
        uint64_t bytes = llvm::decodeULEB128(s.contents.data() + at, &length, s.contents.end(), &problem);
        if (problem || bytes > UINT32_MAX)
          return malformed(at);
        frames_[place->second] = bytes;
        at += length;
      }
    }
    return Error::success();
  }

  static Error malformed(uint64_t at) {
    return internal_error(formatv(".stack_sizes+{0:x}: malformed", at)).error();
  }

  void find_functions() {
    for (const ImageElfSymbol &s : object_.symbols) {
      if (!s.defined() || s.section == SHN_ABS || s.type != STT_FUNC ||
          !(object_.sections[s.section].flags & SHF_EXECINSTR) ||
          object_.sections[s.section].type == SHT_NOBITS)
        continue;
      auto [it, fresh] = by_place_.try_emplace({s.section, s.value}, nullptr);
      if (fresh) {
        nodes_.push_back({.name = s.name, .section = s.section, .start = s.value, .end = s.value + s.size});
        it->second = &nodes_.back();
      }
      by_name_.try_emplace(s.name, it->second);
    }
    for (uint32_t i = 1; i < object_.sections.size(); ++i)
      for (const Elf::Rela &r : object_.sections[i].relocations)
        if (object_.sections[i].flags & SHF_EXECINSTR)
          relocation_at_[{i, r.r_offset}] = &r;
  }

  Node *reach(Node *n) {
    if (n->component == 0) {
      n->component = UINT32_MAX; // seen; solve() gives the number
      todo_.push_back(n);
    }
    return n;
  }

  Error decode(Node &f) {
    auto frame = frames_.find({f.section, f.start});
    if (frame == frames_.end())
      return internal_error(formatv("function {0}: its frame has no known size", f.name)).error();
    f.frame = frame->second;
    auto bytes = object_.sections[f.section].contents;
    for (uint64_t at = f.start; at < f.end;) {
      auto step = decoder_.decode(bytes.slice(at, f.end - at), at);
      if (!step || step->size == 0)
        return internal_error(formatv("function {0}+{1:x}: no machine instruction", f.name, at - f.start))
            .error();
      if (step->call || step->branch)
        if (Error e = add_edge(f, at, *step))
          return e;
      at += step->size;
    }
    f.next = f.calls;
    f.next.insert(f.next.end(), f.jumps.begin(), f.jumps.end());
    return Error::success();
  }

  Error add_edge(Node &f, uint64_t at, const MachineStep &step) {
    std::optional<Place> to;
    auto relocation =
        at + step.size >= 4 ? relocation_at_.find({f.section, at + step.size - 4}) : relocation_at_.end();
    if (relocation != relocation_at_.end()) {
      const Elf::Rela &r = *relocation->second;
      const ImageElfSymbol &symbol = object_.symbols[r.getSymbol(false)];
      bool leads_to_code = symbol.defined() && symbol.section != SHN_ABS &&
                           object_.sections[symbol.section].flags & SHF_EXECINSTR;
      if (leads_to_code)
        to = {symbol.section, symbol.value + uint64_t(r.r_addend) + 4};
    } else if (step.target)
      to = {f.section, *step.target};
    if (!to) {
      f.calls_out |= step.call;
      return Error::success();
    }
    bool inside = to->first == f.section && to->second >= f.start && to->second < f.end;
    if (inside && !(step.call && to->second == f.start))
      return step.call ? stray(f, at) : Error::success();
    auto it = by_place_.find(*to);
    if (it == by_place_.end())
      return stray(f, at);
    (step.call ? f.calls : f.jumps).push_back(reach(it->second));
    return Error::success();
  }

  static Error stray(const Node &f, uint64_t at) {
    return internal_error(
               formatv("function {0}+{1:x}: goes to where no function starts", f.name, at - f.start))
        .error();
  }

  Error solve(Node &all) {
    uint32_t number = 0;
    for (auto it = llvm::scc_begin(&all); !it.isAtEnd(); ++it) {
      const std::vector<Node *> &component = *it;
      ++number;
      for (Node *n : component)
        n->component = number;
      uint64_t depth = 0;
      for (const Node *n : component) {
        depth = std::max(depth, n->frame + (n->calls_out ? return_address : 0));
        for (const Node *callee : n->calls) {
          if (callee->component == number)
            return recursion(component);
          depth = std::max(depth, n->frame + return_address + callee->depth);
        }
        for (const Node *target : n->jumps)
          depth = std::max(depth, target->depth); // in the same component: still 0
      }
      for (Node *n : component)
        n->depth = depth;
    }
    return Error::success();
  }

  static Error recursion(const std::vector<Node *> &component) {
    std::vector<StringRef> names;
    for (const Node *n : component)
      names.push_back(n->name);
    std::ranges::sort(names);
    return unsupported(formatv("functions call each other without a bound: {0}", llvm::join(names, ", ")))
        .error();
  }

  const ElfObject &object_;
  MachineDecoder decoder_;
  std::deque<Node> nodes_; ///< stable addresses
  std::map<Place, uint64_t> frames_;
  std::map<Place, Node *> by_place_;
  std::map<StringRef, Node *> by_name_;
  std::map<Place, const Elf::Rela *> relocation_at_;
  std::vector<Node *> todo_;
};

} // namespace

Expected<std::vector<FunctionStack>> stack_by_function(std::span<const uint8_t> bytes,
                                                       std::span<const std::string> roots) {
  auto object = read_elf(bytes);
  if (!object)
    return object.takeError();
  StackAnalysis analysis(*object);
  Expected<uint32_t> worst = analysis.run(roots);
  if (!worst)
    return worst.takeError();
  return analysis.own();
}

Expected<uint32_t> worst_stack(std::span<const uint8_t> bytes, std::span<const std::string> roots) {
  auto object = read_elf(bytes);
  if (!object)
    return object.takeError();
  return StackAnalysis(*object).run(roots);
}

} // namespace ujit
