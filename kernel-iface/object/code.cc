// Functions are what the symbol table says. Compilers older than those that mark function symbols (LLVM 6)
// leave only untyped global symbols; there each of them begins a function that goes on to the next.
//
// A relocation patches one instruction. On a call it names the callee: the symbol's value plus (imm + 1)
// slots, which is right for section symbols (imm says where in the section) and for function symbols (imm is
// -1). On a 64-bit immediate it means, by the section that its symbol lies in: a map, an address in a data
// map (or, for loaders from before data maps, the value found there), or the address of a subprogram.
// Everything else is a symbol which only a running kernel can resolve; the function is then refused, and so
// is each program that reaches it.
#include "kernel-iface/object/code.h"

#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <elf.h>

namespace ujit {

using llvm::formatv;

namespace {

constexpr uint8_t op_ld_imm64 = 0x18, op_call = 0x85;
constexpr uint8_t src_map = 1, src_map_value = 2, src_func = 4; // of ld_imm64
constexpr uint8_t src_call_local = 1, src_call_kfunc = 2;        // of call

class Reader {
public:
  Reader(const ElfFile &elf, const Btf &btf, const std::map<std::string, BtfExtSection> &btf_ext,
         const MapDefs &defs, const ObjectOptions &options)
      : elf_(elf), btf_(btf), btf_ext_(btf_ext), defs_(defs), options_(options) {}

  Expected<Code> read() {
    for (uint32_t i = 1; i < elf_.sections.size(); ++i) {
      const ElfSection &s = elf_.sections[i];
      if (!s.is_code())
        continue;
      auto insns = decode_bytes(s.bytes);
      if (!insns)
        return with_note(insns.takeError(), s);
      code_.insns[i] = std::move(*insns);
    }
    if (Error e = find_functions())
      return e;
    for (const auto &[section, insns] : code_.insns) {
      attach_btf(section);
      if (Error e = relocate(section))
        return e;
    }
    for (Function &f : code_.functions)
      scan(f);
    for (Function &f : code_.functions)
      for (const Function::Reference &r : f.references)
        code_.functions[r.target].called = true;
    return std::move(code_);
  }

private:
  static Error with_note(Error e, const ElfSection &s) {
    return llvm::handleErrors(std::move(e), [&](LinkError &le) {
      return LinkError(le).note(formatv("in section {0}", s.name).str()).error();
    });
  }

  Error find_functions() {
    std::map<uint32_t, std::vector<const ElfSymbol *>> typed, untyped;
    for (const ElfSymbol &s : elf_.symbols) {
      if (!code_.insns.count(s.section))
        continue;
      if (s.type == STT_FUNC)
        typed[s.section].push_back(&s);
      else if (s.type == STT_NOTYPE && s.bind != STB_LOCAL)
        untyped[s.section].push_back(&s);
    }
    for (const auto &[section, insns] : code_.insns) {
      if (auto it = typed.find(section); it != typed.end()) {
        for (const ElfSymbol *s : it->second)
          if (Error e = add_function(section, *s, s->size))
            return e;
      } else if (auto it = untyped.find(section); it != untyped.end()) {
        std::vector<const ElfSymbol *> &symbols = it->second;
        std::stable_sort(symbols.begin(), symbols.end(),
                         [](auto *a, auto *b) { return a->value < b->value; });
        for (size_t n = 0; n < symbols.size(); ++n) {
          uint64_t end = n + 1 < symbols.size() ? symbols[n + 1]->value : insns.size() * 8;
          if (Error e =
                  add_function(section, *symbols[n], end > symbols[n]->value ? end - symbols[n]->value : 0))
            return e;
        }
      }
    }
    auto key = [](const Function &f) { return std::tuple(f.section, f.start, !f.global, f.name); };
    std::sort(code_.functions.begin(), code_.functions.end(),
              [&](const Function &a, const Function &b) { return key(a) < key(b); });
    for (size_t i = 1; i < code_.functions.size(); ++i) {
      const Function &a = code_.functions[i - 1], &b = code_.functions[i];
      bool alias = a.start == b.start && a.end == b.end;
      if (a.section == b.section && b.start < a.end && !alias)
        return input_error(formatv("functions {0} and {1} overlap", a.name, b.name).str()).error();
    }
    return Error::success();
  }

  Error add_function(uint32_t section, const ElfSymbol &symbol, uint64_t size) {
    uint64_t bytes = code_.insns[section].size() * 8;
    if (symbol.value % 8 || size % 8 || size == 0 || symbol.value > bytes || size > bytes - symbol.value)
      return input_error(formatv("function {0}: {1} bytes at byte {2} are no instructions of section {3}",
                                 symbol.name, size, symbol.value, elf_.sections[section].name)
                             .str())
          .error();
    Function f;
    f.name = symbol.name;
    f.section = section;
    f.start = symbol.value / 8;
    f.end = (symbol.value + size) / 8;
    f.global = symbol.bind != STB_LOCAL;
    code_.functions.push_back(std::move(f));
    return Error::success();
  }

  std::span<Function> functions_of(uint32_t section) {
    auto [first, last] =
        std::equal_range(code_.functions.begin(), code_.functions.end(), section, BySection());
    return {first, last};
  }

  struct BySection {
    bool operator()(const Function &f, uint32_t s) const { return f.section < s; }
    bool operator()(uint32_t s, const Function &f) const { return s < f.section; }
  };

  /// Function ids from .BTF.ext, and refusals for CO-RE relocations.
  void attach_btf(uint32_t section) {
    auto it = btf_ext_.find(elf_.sections[section].name);
    if (it == btf_ext_.end())
      return;
    auto at = [](const auto &records, uint32_t insn) {
      return std::lower_bound(records.begin(), records.end(), insn,
                              [](const auto &r, uint32_t i) { return r.insn < i; });
    };
    for (Function &f : functions_of(section)) {
      if (auto func = at(it->second.funcs, f.start); func != it->second.funcs.end() && func->insn == f.start)
        f.btf_func = func->type;
      if (auto core = at(it->second.core, f.start); core != it->second.core.end() && core->insn < f.end)
        refuse(
            f, core->insn,
            unsupported("needs a CO-RE relocation: " + describe(*core, btf_))
                .with_hint(
                    "only a running kernel's BTF resolves it; give the verified form of the program, or use "
                    "types without preserve_access_index"));
    }
  }

  /// Keeps the first refusal of a function.
  static void refuse(Function &f, uint32_t section_slot, LinkError e) {
    if (!f.refusal || *f.refusal->insn > section_slot - f.start)
      f.refusal = e.at(section_slot - f.start);
  }

  /// Calls `action` for the function that holds a slot, and for its aliases. Functions are sorted and overlap
  /// only as aliases, so only those with the last start that is not behind the slot can hold it.
  template <typename Action>
  void for_functions(uint32_t section, uint32_t slot, Action action) {
    std::span<Function> all = functions_of(section);
    auto f = std::upper_bound(all.begin(), all.end(), slot,
                              [](uint32_t s, const Function &f) { return s < f.start; });
    uint32_t start = f == all.begin() ? 0 : std::prev(f)->start;
    while (f != all.begin() && std::prev(f)->start == start && slot < std::prev(f)->end)
      action(*--f);
  }

  Error relocate(uint32_t section) {
    std::vector<Insn> &insns = code_.insns[section];
    for (const ElfRelocation &r : elf_.relocations[section]) {
      if (r.offset % 8)
        return input_error(formatv("section {0}: relocation at byte {1} is not at an instruction",
                                   elf_.sections[section].name, r.offset)
                               .str())
            .error();
      uint32_t slot = r.offset / 8;
      if (is_relocated(section, slot))
        return input_error(
                   formatv("section {0}: two relocations at byte {1}", elf_.sections[section].name, r.offset)
                       .str())
            .error();
      const Insn original = insns[slot];
      for_functions(section, slot, [&](Function &f) {
        insns[slot] = original;
        if (auto e = apply(f, insns, slot, r, elf_.symbols[r.symbol]))
          refuse(f, slot, std::move(*e));
      });
      relocated_[section].push_back(slot);
    }
    return Error::success();
  }

  bool is_relocated(uint32_t section, uint32_t slot) {
    const std::vector<uint32_t> &slots = relocated_[section];
    return std::binary_search(slots.begin(), slots.end(), slot);
  }

  std::optional<LinkError> apply(Function &f, std::vector<Insn> &insns, uint32_t slot, const ElfRelocation &r,
                                 const ElfSymbol &symbol) {
    Insn &insn = insns[slot];
    if (insn.opcode == op_call)
      return apply_to_call(f, insn, slot, r, symbol);
    if (insn.opcode != op_ld_imm64 || slot + 1 >= f.end)
      return input_error(
          formatv("relocation against {0} patches an instruction that is neither a call nor a 64-bit "
                  "immediate load",
                  symbol.name)
              .str());
    if (r.type != r_bpf_64_64)
      return unsupported(formatv("relocation type {0} against {1}", r.type, symbol.name).str());
    if (symbol.section == 0)
      return undefined(symbol);
    uint64_t place = symbol.value + uint32_t(insn.imm);
    const ElfSection &target = elf_.sections[symbol.section];
    if (auto map = defs_.at(symbol.section, place))
      return defs_.maps[index(*map)].is_data() ? apply_data(f, insns, slot, *map, place, symbol)
                                               : apply_map(insns, slot, *map, place, symbol);
    if (target.is_code()) {
      auto callee = place % 8 == 0 ? code_.function_at(symbol.section, place / 8) : std::nullopt;
      if (!callee)
        return input_error(
            formatv("address of {0}+{1}, where no function begins", symbol.name, insn.imm).str());
      insn.src = src_func;
      insn.imm = -1;
      f.references.push_back({slot - f.start, *callee});
      return std::nullopt;
    }
    return unsupported(
        formatv("refers to {0} in section {1}, which is neither a map nor data", symbol.name, target.name)
            .str());
  }

  std::optional<LinkError> apply_to_call(Function &f, Insn &insn, uint32_t slot, const ElfRelocation &r,
                                         const ElfSymbol &symbol) {
    if (r.type != r_bpf_64_32)
      return unsupported(formatv("relocation type {0} on a call of {1}", r.type, symbol.name).str());
    if (symbol.section == 0)
      return undefined(symbol);
    int64_t target = int64_t(symbol.value / 8) + insn.imm + 1;
    auto callee =
        symbol.value % 8 == 0 && target >= 0 ? code_.function_at(symbol.section, target) : std::nullopt;
    if (!callee)
      return input_error(
          formatv("call of {0}, slot {1}, where no function begins", symbol.name, target).str());
    insn.src = src_call_local;
    f.references.push_back({slot - f.start, *callee});
    return std::nullopt;
  }

  std::optional<LinkError> apply_map(std::vector<Insn> &insns, uint32_t slot, MapId map, uint64_t place,
                                     const ElfSymbol &symbol) {
    if (place != defs_.places[index(map)].offset)
      return input_error(formatv("refers to the middle of map {0}", symbol.name).str());
    insns[slot].src = src_map;
    insns[slot].imm = index(map);
    insns[slot + 1].imm = 0;
    return std::nullopt;
  }

  bool means_value(const std::string &section) const {
    if (options_.value_sections.count(section))
      return true;
    return defs_.iproute2 && (section == ".data" || section == ".bss");
  }

  std::optional<LinkError> apply_data(Function &f, std::vector<Insn> &insns, uint32_t slot, MapId map,
                                      uint64_t place, const ElfSymbol &symbol) {
    const Map &data = defs_.maps[index(map)];
    if (!elf_.relocations[symbol.section].empty())
      return unsupported(formatv("refers to section {0}, which holds addresses", data.name).str())
          .with_hint("addresses in data (arrays of strings, pointers to globals) have no meaning in eBPF");
    if (!means_value(data.name)) {
      insns[slot].src = src_map_value;
      insns[slot].imm = index(map);
      insns[slot + 1].imm = place;
      return std::nullopt;
    }
    uint64_t size = symbol.size ? symbol.size : 4;
    if ((size != 1 && size != 2 && size != 4 && size != 8) || place > data.contents.size() ||
        size > data.contents.size() - place)
      return unsupported(formatv("the value of {0} has {1} bytes", symbol.name, size).str());
    uint64_t value = 0;
    std::memcpy(&value, data.contents.data() + place, size);
    insns[slot].src = 0;
    insns[slot].imm = uint32_t(value);
    insns[slot + 1].imm = value >> 32;
    f.inlined.push_back({slot - f.start, map, uint32_t(place), uint32_t(size)});
    return std::nullopt;
  }

  /// An undefined symbol: BTF says where its author expected it.
  LinkError undefined(const ElfSymbol &symbol) const {
    for (const BtfType &t : btf_.types())
      if (t.kind == BtfKind::datasec && (t.name == ".kconfig" || t.name == ".ksyms"))
        for (const BtfItem &item : t.items) {
          if (btf_[item.type].name != symbol.name)
            continue;
          if (btf_[item.type].kind == BtfKind::func)
            return unsupported("calls kernel function " + symbol.name)
                .with_hint("kfuncs can only be had in verified form");
          return unsupported(formatv("extern {0} of section {1} is only known in a running kernel",
                                     symbol.name, t.name)
                                 .str())
              .with_hint("use a constant in .rodata that the manifest sets");
        }
    return unsupported((symbol.name.empty() ? "a symbol without a name" : symbol.name) +
                       " is not defined in this object")
        .with_hint("link objects that refer to each other with `bpftool gen object` first");
  }

  /// What has no relocation: calls in the same section, and forms that only a loader may write.
  void scan(Function &f) {
    std::vector<Insn> &insns = code_.insns[f.section];
    for (uint32_t i = f.start; i < f.end; ++i) {
      const Insn &insn = insns[i];
      bool wide = insn.opcode == op_ld_imm64;
      if (!is_relocated(f.section, i)) {
        if (insn.opcode == op_call && insn.src == src_call_local) {
          int64_t target = int64_t(i) + 1 + insn.imm;
          auto callee = target >= 0 ? code_.function_at(f.section, target) : std::nullopt;
          if (callee)
            f.references.push_back({i - f.start, *callee});
          else
            refuse(f, i,
                   input_error(formatv("call of slot {0} of section {1}, where no function begins", target,
                                       elf_.sections[f.section].name)
                                   .str()));
        } else if (insn.opcode == op_call && insn.src == src_call_kfunc) {
          refuse(f, i,
                 unsupported(formatv("calls kernel function #{0}", insn.imm).str())
                     .with_hint("kfuncs can only be had in verified form"));
        } else if (wide && insn.src != 0) {
          refuse(
              f, i,
              input_error(
                  formatv("64-bit immediate load of form {0} has no relocation", unsigned(insn.src)).str()));
        }
      }
      if (wide)
        ++i;
    }
    std::sort(f.references.begin(), f.references.end(), [](auto &a, auto &b) { return a.insn < b.insn; });
  }

  const ElfFile &elf_;
  const Btf &btf_;
  const std::map<std::string, BtfExtSection> &btf_ext_;
  const MapDefs &defs_;
  const ObjectOptions &options_;
  Code code_;
  std::map<uint32_t, std::vector<uint32_t>> relocated_; ///< slots by section, sorted
};

} // namespace

std::optional<uint32_t> Code::function_at(uint32_t section, uint64_t slot) const {
  auto it = std::lower_bound(functions.begin(), functions.end(), std::pair<uint64_t, uint64_t>(section, slot),
                             [](const Function &f, const auto &key) {
                               return std::pair<uint64_t, uint64_t>(f.section, f.start) < key;
                             });
  if (it == functions.end() || it->section != section || it->start != slot)
    return std::nullopt;
  return it - functions.begin();
}

Expected<Code> read_code(const ElfFile &elf, const Btf &btf,
                         const std::map<std::string, BtfExtSection> &btf_ext, const MapDefs &defs,
                         const ObjectOptions &options) {
  return Reader(elf, btf, btf_ext, defs, options).read();
}

} // namespace ujit
