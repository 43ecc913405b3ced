// write_module(): the .ko file.
//
// Two relocatable objects come together, the image and module_init.c, beside sections that are written here
// byte by byte. Sections of one name are concatenated; a reference to something that is defined inside
// becomes one to its section and an offset, so no symbol table needs to be merged. What is left undefined is
// one of three things: a thunk or function that the kernel's loader resolves itself, a kernel function or
// per-CPU variable of which the address is known (an absolute symbol; init checks it by name before anything
// is called), or an error here.
//
// The kernel patches code where its mitigations want that: it finds returns, calls and indirect branches by
// tables of their places. objtool writes such tables from decoded instructions; here every such place has a
// relocation to a thunk or function, which says the same.
#include "kernel-iface/image/elf.h"
#include "kernel-iface/linux/module.h"
#include "kernel-iface/linux/module_btf.h"
#include "kernel-iface/linux/module_object.h"
#include "module_init.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

#include <cstring>
#include <set>

namespace ujit {

using namespace llvm::ELF;
using llvm::formatv;
using llvm::StringRef;

std::span<const std::string> module_functions() {
  static const std::vector<std::string> names{"kallsyms_lookup_name", "bpf_map_get",
                                              "bpf_map_put",          "bpf_prog_get_type_dev",
                                              "bpf_prog_put",         "register_btf_kfunc_id_set",
                                              "anon_inode_getfd",     "bpf_get_current_pid_tgid",
                                              "module_refcount"};
  return names;
}

static constexpr StringRef return_thunk = "__x86_return_thunk";

static bool is_indirect_thunk(StringRef symbol) { return symbol.starts_with("__x86_indirect_thunk_"); }

bool resolved_by_kernel(StringRef symbol) {
  return symbol == "_printk" || symbol == "snprintf" || symbol == return_thunk || is_indirect_thunk(symbol);
}

namespace {

constexpr uint64_t kernel_image_start = 0xffffffff80000000; ///< kernel, modules and jited code lie above
constexpr uint64_t per_cpu_end = 1 << 24;                   ///< addresses of per-CPU variables lie below

/// One of the two objects, and where its sections went.
struct Input {
  const char *what;
  ElfObject object;
  bool own = false; ///< module_init.c
  std::vector<std::optional<ModulePlace>> pieces{};
};

class Writer {
public:
  Writer(const ModuleSpec &spec, const ModuleKernel &kernel) : spec_(spec), kernel_(kernel) {}

  Expected<std::vector<uint8_t>> run() {
    auto image = read_elf(spec_.image);
    if (!image)
      return image.takeError();
    auto own = read_elf(module_init_object);
    if (!own)
      return own.takeError();
    inputs_.push_back({.what = "image", .object = std::move(*image)});
    inputs_.push_back({.what = "module_init", .object = std::move(*own), .own = true});
    for (Input &in : inputs_)
      if (Error e = place(in))
        return e;
    if (Error e = add_entries())
      return e;
    if (Error e = add_data())
      return e;
    // From here on everything that code can refer to has its place.
    for (Input &in : inputs_)
      for (uint32_t s = 1; s < in.object.sections.size(); ++s)
        if (in.pieces[s])
          if (Error e = relocate(in, s))
            return e;
    add_table();
    add_bookkeeping();
    std::map<std::string, std::optional<uint64_t>> outside;
    for (const std::string &name : outside_)
      outside[name] = resolved_by_kernel(name) ? std::nullopt : std::optional(spec_.addresses.at(name));
    return write_module_object(std::move(sections_), functions_, outside);
  }

private:
  uint32_t section(StringRef name, uint64_t flags) {
    auto [it, fresh] = by_name_.try_emplace(name, sections_.size());
    if (fresh)
      sections_.push_back({.name = name.str(), .flags = SHF_ALLOC | flags});
    return it->second;
  }

  /// `bytes` at the end of a section.
  ModulePlace append(uint32_t to, llvm::ArrayRef<uint8_t> bytes, uint64_t align) {
    ModuleSection &s = sections_[to];
    s.align = std::max(s.align, align);
    // int3 between functions: whoever gets there does not go on
    s.contents.resize(llvm::alignTo(s.contents.size(), align), s.flags & SHF_EXECINSTR ? 0xcc : 0);
    ModulePlace p{to, s.contents.size()};
    s.contents.insert(s.contents.end(), bytes.begin(), bytes.end());
    return p;
  }

  template <class T>
  static llvm::ArrayRef<uint8_t> bytes_of(const std::vector<T> &v) {
    return {reinterpret_cast<const uint8_t *>(v.data()), v.size() * sizeof(T)};
  }

  Error define(StringRef name, ModulePlace place) {
    if (!definitions_.try_emplace(name, place).second)
      return internal_error(formatv("symbol {0} is defined twice in a module", name)).error();
    return Error::success();
  }

  /// The output section of an input section; none: it is left out.
  Expected<std::optional<uint32_t>> output_of(const Input &in, const ImageElfSection &s) {
    auto under = [&](StringRef stem) {
      return s.name.starts_with(stem) && (s.name.size() == stem.size() || s.name[stem.size()] == '.');
    };
    if (!(s.flags & SHF_ALLOC) || s.size == 0 || s.type == SHT_NOTE || s.name == ".eh_frame")
      return std::nullopt;
    if (s.flags & SHF_TLS || s.flags & SHF_GROUP || s.type == SHT_GROUP)
      return internal_error(formatv("{0}: section {1}: not in a module", in.what, s.name)).error();
    if (under(".text"))
      return section(".text", SHF_EXECINSTR);
    if (under(".rodata") || under(".data.rel.ro"))
      return section(".rodata", 0);
    if (s.name == "__ex_table")
      return section("__ex_table", 0);
    if (in.own && s.name == ".init.text")
      return section(".init.text", SHF_EXECINSTR);
    if (in.own && s.name == ".init.data")
      return section(".init.data", SHF_WRITE);
    if (in.own && (under(".data") || under(".bss")))
      return section(".data", SHF_WRITE);
    return internal_error(formatv("{0}: section {1}: {2}", in.what, s.name,
                                  s.flags & SHF_WRITE ? "an image has no writable data"
                                                      : "not one of those that a module has"))
        .error();
  }

  Error place(Input &in) {
    in.pieces.resize(in.object.sections.size());
    for (uint32_t i = 1; i < in.object.sections.size(); ++i) {
      const ImageElfSection &s = in.object.sections[i];
      auto to = output_of(in, s);
      if (!to)
        return to.takeError();
      if (!*to)
        continue;
      if (s.type == SHT_NOBITS)
        in.pieces[i] = append(**to, std::vector<uint8_t>(s.size), s.align);
      else
        in.pieces[i] = append(**to, s.contents, s.align);
    }
    for (const ImageElfSymbol &s : in.object.symbols) {
      if (s.section == SHN_UNDEF || s.section == SHN_ABS || !in.pieces[s.section] || s.name.empty())
        continue;
      ModulePlace at = *in.pieces[s.section];
      at.offset += s.value;
      if (s.type == STT_FUNC)
        functions_.push_back({s.name.str(), at, s.size, STT_FUNC});
      if (s.binding != STB_LOCAL)
        if (Error e = define(s.name, at))
          return e;
    }
    return Error::success();
  }

  /// The kfuncs: what comes from eBPF as (ctx, where, frame, size) goes on as (ctx, instance, where, frame).
  /// Where the kernel does not filter who binds them, they drop until the module was started (module_init.c).
  Error add_entries() {
    const uint32_t text = section(".text", SHF_EXECINSTR);
    const ModulePlace instance = append(section(".rodata", 0), bytes_of(spec_.instance), 64);
    const ModulePlace entries = append(text, {}, 16);
    if (Error e = define("ujit_module_entries", entries))
      return e;
    const ModulePlace live = definitions_["ujit_module_live"];
    for (const ModuleEntry &e : spec_.entries) {
      auto target = definitions_.find(e.symbol);
      if (target == definitions_.end())
        return internal_error(formatv("the image does not define {0}", e.symbol)).error();
      std::vector<uint8_t> code{0xf3, 0x0f, 0x1e, 0xfa}; // endbr64
      std::vector<ModuleRelocation> relocations;
      auto emit = [&](std::initializer_list<uint8_t> bytes) { code.insert(code.end(), bytes); };
      // A reference in the four bytes that are `back` bytes before the end of what was emitted.
      auto refer = [&](const ModulePlace &to, uint32_t type, int64_t addend, uint64_t back) {
        relocations.push_back({code.size() - back, type, int64_t(to.offset) + addend, to.section});
      };
      size_t test = 0;
      if (!kernel_.layout.set_filter_at) {
        emit({0x83, 0x3d, 0, 0, 0, 0, 0}); // cmpl $0, live
        refer(live, R_X86_64_PC32, -5, 5);
        emit({0x74, 0}); // je
        test = code.size();
      }
      emit({0x48, 0x89, 0xd1,               // mov %rdx, %rcx
            0x89, 0xf2,                     // mov %esi, %edx
            0x48, 0xc7, 0xc6, 0, 0, 0, 0}); // mov $instance, %rsi
      refer(instance, R_X86_64_32S, 0, 4);
      emit({0xe9, 0, 0, 0, 0}); // jmp
      refer(target->second, R_X86_64_PC32, -4, 4);
      emit({0xcc}); // speculation ends here
      std::optional<uint64_t> thunk;
      if (test) {
        code[test - 1] = uint8_t(code.size() - test);
        const uint8_t verdict = e.type == ProgType::xdp ? 0 : 2; // XDP_ABORTED, TC_ACT_SHOT
        emit({0xb8, verdict, 0, 0, 0});                          // mov $verdict, %eax
        thunk = code.size();
        if (kernel_.return_thunks)
          emit({0xe9, 0, 0, 0, 0, 0xcc});
        else
          emit({0xc3, 0xcc});
      }
      const ModulePlace at = append(text, code, 16);
      for (ModuleRelocation &r : relocations) {
        r.offset += at.offset;
        sections_[text].relocations.push_back(r);
      }
      if (thunk && kernel_.return_thunks) {
        return_sites_.push_back({text, at.offset + *thunk});
        sections_[text].relocations.push_back(
            {at.offset + *thunk + 1, R_X86_64_PLT32, -4, 0, &*outside_.insert(return_thunk.str()).first});
      }
      functions_.push_back({e.name, at, code.size(), STT_FUNC});
      entry_code_.push_back(at.offset - entries.offset);
    }
    return Error::success();
  }

  void point_at(ModulePlace from, const ModulePlace &to) {
    sections_[from.section].relocations.push_back({from.offset, R_X86_64_64, int64_t(to.offset), to.section});
  }

  Error add_data() {
    auto btf = write_module_btf(spec_);
    if (!btf)
      return btf.takeError();
    btf_ = std::move(btf->bytes);
    const uint32_t data = section(".data", SHF_WRITE), rodata = section(".rodata", 0);

    std::vector<uint32_t> set{uint32_t(spec_.entries.size()), 1 /* these are kfuncs */};
    for (uint32_t id : btf->kfunc_ids)
      set.insert(set.end(), {id, 0});
    const ModulePlace kfuncs = append(data, bytes_of(set), 8);

    std::vector<uint64_t> objects{uint64_t(spec_.programs.size()) << 32 | spec_.maps.size()};
    for (const CapturedMap *m : spec_.maps)
      objects.push_back(m->address);
    for (const CapturedProgram *p : spec_.programs)
      objects.push_back(p->address);
    const ModulePlace held = append(rodata, bytes_of(objects), 8);

    std::vector<uint8_t> name(spec_.name.begin(), spec_.name.end());
    name.push_back(0);
    const ModulePlace printed = append(rodata, name, 1);

    const ModulePlace file = append(data, std::vector<uint8_t>(kernel_.file_operations_size), 64);
    std::vector<uint8_t> module(kernel_.module_size);
    if (module.size() < kernel_.module_name + name.size() || name.size() > 56 ||
        kernel_.module_init + 8 > module.size() || kernel_.module_exit + 8 > module.size())
      return internal_error("struct module is too small for the module's name and functions").error();
    llvm::copy(name, module.begin() + kernel_.module_name);
    const ModulePlace self = append(section(".gnu.linkonce.this_module", SHF_WRITE), module, 64);
    // The table is written last, when it is known which symbols are used; it is alone in its section.
    const ModulePlace table{section(".init.rodata", 0), 0};
    functions_.push_back({"__this_module", self, kernel_.module_size, STT_OBJECT});
    for (auto [symbol, at] : {std::pair{"ujit_module_set", kfuncs},
                              {"ujit_module_objects", held},
                              {"ujit_module_name", printed},
                              {"ujit_module_file", file},
                              {"__this_module", self},
                              {"ujit_module_table", table}})
      if (Error e = define(symbol, at))
        return e;
    functions_.push_back({"ujit_module_set", kfuncs, set.size() * 4, STT_OBJECT});
    point_at(file, self); // owner is the first member
    point_at({file.section, file.offset + kernel_.file_operations_release}, definitions_["ujit_module_seal"]);
    point_at({file.section, file.offset + kernel_.file_operations_write}, definitions_["ujit_module_start"]);
    point_at({self.section, kernel_.module_init}, definitions_["ujit_module_init"]);
    point_at({self.section, kernel_.module_exit}, definitions_["ujit_module_exit"]);
    return Error::success();
  }

  static StringRef name_of_type(uint32_t type) {
    switch (type) {
    case R_X86_64_GOTPCREL:
    case R_X86_64_GOTPCRELX:
    case R_X86_64_REX_GOTPCRELX: return "through a global offset table, which modules do not have";
    case R_X86_64_32: return "zero-extended from 32 bits, which no kernel address is";
    default: return "of a type that modules do not have";
    }
  }

  Error relocate(const Input &in, uint32_t number) {
    const ModulePlace &piece = *in.pieces[number];
    for (const Elf::Rela &r : in.object.sections[number].relocations) {
      const ImageElfSymbol &s = in.object.symbols[r.getSymbol(false)];
      ModuleRelocation out{
          .offset = piece.offset + r.r_offset, .type = r.getType(false), .addend = r.r_addend};
      auto fail = [&](const llvm::Twine &why) {
        return internal_error(formatv("{0}: {1}+{2:x}: {3}: {4}", in.what, in.object.sections[number].name,
                                      uint64_t(r.r_offset), s.name, why))
            .error();
      };
      if (out.type != R_X86_64_PC32 && out.type != R_X86_64_PLT32 && out.type != R_X86_64_64 &&
          out.type != R_X86_64_32S && out.type != R_X86_64_PC64)
        return fail("reference " + name_of_type(out.type));
      auto definition = s.defined() ? definitions_.end() : definitions_.find(s.name);
      if (s.section == SHN_ABS)
        return fail("absolute symbols are not expected here");
      if (s.defined() || definition != definitions_.end()) {
        if (s.defined() && !in.pieces[s.section])
          return fail("refers to section " + in.object.sections[s.section].name + ", which is left out");
        ModulePlace to = s.defined() ? *in.pieces[s.section] : definition->second;
        out.section = to.section;
        out.addend += int64_t(to.offset + (s.defined() ? s.value : 0));
        if (out.type == R_X86_64_PLT32)
          out.type = R_X86_64_PC32;
      } else if (Error e = refer_outside(in, piece.section, s.name, out))
        return e;
      if (out.type)
        sections_[piece.section].relocations.push_back(out);
    }
    return Error::success();
  }

  /// A reference out of the module. Clears `r.type` where none is left.
  Error refer_outside(const Input &in, uint32_t section, StringRef name, ModuleRelocation &r) {
    auto fail = [&](const llvm::Twine &why) {
      return internal_error(formatv("{0}: {1}: {2}", in.what, name, why)).error();
    };
    std::vector<uint8_t> &code = sections_[section].contents;
    const bool branch = (r.type == R_X86_64_PLT32 || r.type == R_X86_64_PC32) && r.addend == -4 &&
                        sections_[section].flags & SHF_EXECINSTR && r.offset >= 1;
    const uint8_t opcode = branch ? code[r.offset - 1] : 0; // e8: call, e9: jmp
    if (name == return_thunk && opcode != 0xe9)
      return fail("returns are jumps to the thunk");
    if (name == return_thunk && !kernel_.return_thunks) {
      code[r.offset - 1] = 0xc3; // ret
      std::fill_n(code.begin() + r.offset, 4, 0xcc);
      r.type = 0;
      return Error::success();
    }
    r.symbol = &*outside_.insert(name.str()).first;
    if (resolved_by_kernel(name)) {
      if (name == return_thunk) {
        return_sites_.push_back({section, r.offset - 1});
      } else if (is_indirect_thunk(name)) {
        if (!kernel_.retpolines)
          return fail("this kernel has no retpolines");
        if (opcode != 0xe8 && opcode != 0xe9)
          return fail("not a call or jump");
        retpoline_sites_.push_back({section, r.offset - 1});
      }
      return Error::success();
    }
    auto address = spec_.addresses.find(name.str());
    if (address == spec_.addresses.end() || address->second == 0)
      return fail("a function of the kernel whose address is not known");
    const uint64_t at = address->second, value = at + r.addend;
    // Per-CPU variables are numbers near 0, which wraps around to them from a module.
    const bool variable = r.type == R_X86_64_PC32 && at < per_cpu_end && opcode != 0xe8 && opcode != 0xe9;
    if ((r.type == R_X86_64_PLT32 || r.type == R_X86_64_PC32) && at < kernel_image_start && !variable)
      return fail("out of reach of a call from a module");
    if (r.type == R_X86_64_32S && !llvm::isInt<32>(int64_t(value)))
      return fail("does not fit in 32 bits");
    if (r.type == R_X86_64_PC64)
      return fail("64-bit distances to kernel functions are not used");
    if (opcode == 0xe8)
      call_sites_.push_back({section, r.offset - 1});
    return Error::success();
  }

  /// What init reads (module_table.h).
  void add_table() {
    ujit_module_table table = kernel_.layout;
    std::vector<uint8_t> strings;
    std::vector<ujit_symbol> symbols;
    std::vector<ujit_entry> entries;
    std::vector<ujit_map> maps;
    std::vector<ujit_program> programs;
    auto text = [&](StringRef s) {
      uint32_t at = strings.size();
      strings.insert(strings.end(), s.begin(), s.end());
      strings.push_back(0);
      return at;
    };
    // Init wants it in front, to be able to call it.
    const std::string lookup = "kallsyms_lookup_name";
    symbols.push_back({spec_.addresses.at(lookup), text(lookup), 0});
    for (const std::string &name : outside_)
      if (name != lookup && !resolved_by_kernel(name))
        symbols.push_back({spec_.addresses.at(name), text(name), 0});
    for (size_t i = 0; i < spec_.entries.size(); ++i)
      entries.push_back({text(spec_.entries[i].name), uint32_t(entry_code_[i])});
    for (const CapturedMap *m : spec_.maps)
      maps.push_back({m->address, m->extra, uint32_t(m->fd.get()), m->id, uint32_t(m->type), m->key_size,
                      m->value_size, m->max_entries, m->flags, 0});
    for (const CapturedProgram *p : spec_.programs) {
      std::vector<uint64_t> words(p->insns.size());
      std::memcpy(words.data(), p->insns.data(), words.size() * 8);
      programs.push_back({p->address, p->load_time_ns, ujit_insns_hash(words.data(), words.size()),
                          uint32_t(p->fd.get()), p->id, uint32_t(p->type), uint32_t(words.size())});
    }
    table.program_type = uint32_t(spec_.entries.front().type);
    uint32_t end = sizeof table;
    auto rows = [&](ujit_rows &r, const auto &v, uint32_t size) {
      r = {end, uint32_t(v.size())};
      end += v.size() * size;
    };
    rows(table.symbols, symbols, sizeof(ujit_symbol));
    rows(table.maps, maps, sizeof(ujit_map));
    rows(table.programs, programs, sizeof(ujit_program));
    rows(table.entries, entries, sizeof(ujit_entry));
    for (ujit_symbol &s : symbols)
      s.name += end;
    for (ujit_entry &e : entries)
      e.name += end;
    const uint32_t at = section(".init.rodata", 0);
    append(at, {reinterpret_cast<const uint8_t *>(&table), sizeof table}, 8);
    append(at, bytes_of(symbols), 1);
    append(at, bytes_of(maps), 1);
    append(at, bytes_of(programs), 1);
    append(at, bytes_of(entries), 1);
    append(at, strings, 1);
  }

  void add_sites(const char *name, bool wanted, const std::vector<ModulePlace> &sites) {
    if (!wanted || sites.empty())
      return;
    const uint32_t to = section(name, 0);
    sections_[to].align = 4;
    for (const ModulePlace &p : sites) {
      const uint64_t at = sections_[to].contents.size();
      sections_[to].contents.resize(at + 4);
      sections_[to].relocations.push_back({at, R_X86_64_PC32, int64_t(p.offset), p.section});
    }
  }

  void add_bookkeeping() {
    add_sites(".return_sites", kernel_.return_sites, return_sites_);
    add_sites(".call_sites", kernel_.call_sites, call_sites_);
    add_sites(".retpoline_sites", kernel_.retpoline_sites, retpoline_sites_);

    std::string info;
    for (const std::string &line : {std::string("license=GPL"), "vermagic=" + kernel_.vermagic,
                                    "name=" + spec_.name, std::string("retpoline=Y"), std::string("depends="),
                                    std::string("description=eBPF programs, linked by ujit-lto")})
      info += line + '\0';
    append(section(".modinfo", 0), llvm::arrayRefFromStringRef(info), 1);

    if (!kernel_.symbol_crcs.empty()) {
      std::set<std::string> imported{"module_layout"};
      llvm::copy_if(outside_, std::inserter(imported, imported.end()),
                    [](const std::string &s) { return resolved_by_kernel(s); });
      struct Row {
        uint64_t crc;
        char name[56];
      };
      std::vector<Row> rows;
      for (const std::string &name : imported)
        if (auto crc = kernel_.symbol_crcs.find(name); crc != kernel_.symbol_crcs.end() && name.size() < 56) {
          Row row{crc->second, {}};
          llvm::copy(name, row.name);
          rows.push_back(row);
        }
      append(section("__versions", 0), bytes_of(rows), 32);
    }
    const uint32_t btf = section(".BTF", 0);
    sections_[btf].flags = 0;
    append(btf, btf_, 4);
  }

  const ModuleSpec &spec_;
  const ModuleKernel &kernel_;
  std::vector<Input> inputs_;
  std::vector<ModuleSection> sections_;
  llvm::StringMap<uint32_t> by_name_;
  llvm::StringMap<ModulePlace> definitions_;
  std::vector<ModuleSymbol> functions_; ///< what tools see by name
  std::vector<uint64_t> entry_code_;    ///< by entry: bytes behind ujit_module_entries
  std::set<std::string> outside_;       ///< names of what is outside of the module
  std::vector<ModulePlace> return_sites_, call_sites_, retpoline_sites_;
  std::vector<uint8_t> btf_;
};

Error check_spec(const ModuleSpec &spec) {
  if (spec.entries.empty())
    return internal_error("a module without entries").error();
  for (const ModuleEntry &e : spec.entries)
    if (e.type != spec.entries.front().type)
      return internal_error("entries of one module have one program type").error();
  for (const std::string &name : module_functions())
    if (!spec.addresses.contains(name))
      return unsupported(formatv("the kernel does not tell where its function {0} is", name)).error();
  return Error::success();
}

} // namespace

Expected<std::vector<uint8_t>> write_module(const ModuleSpec &spec, const ModuleKernel &kernel) {
  if (!kernel.refusal.empty())
    return unsupported("this kernel takes no modules of ours: " + kernel.refusal).error();
  if (Error e = check_spec(spec))
    return e;
  return Writer(spec, kernel).run();
}

} // namespace ujit
