#include "kernel-iface/embedded/loader.h"
#include "kernel-iface/embedded/helpers.h"

#include "llvm/ADT/BitmaskEnum.h"
#include "llvm/ExecutionEngine/JITLink/JITLink.h"
#include "llvm/ExecutionEngine/Orc/Core.h"
#include "llvm/ExecutionEngine/Orc/ExecutorProcessControl.h"
#include "llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h"
#include "llvm/Object/ELFObjectFile.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace ujit {

LLVM_ENABLE_BITMASK_ENUMS_IN_NAMESPACE(); // for MemProt

namespace orc = llvm::orc;
namespace jitlink = llvm::jitlink;

namespace {

struct Function {
  uint64_t address, size;
  std::string name;
};

struct CodeRange {
  uint64_t address, size;
  uint64_t offset; ///< of the range in its section
  std::string section;
};

/// What the linker knew about the code when it had placed it.
struct Layout {
  std::vector<Function> functions; ///< by address
  std::vector<CodeRange> ranges;   ///< by address
  std::map<std::string, uint64_t, std::less<>> symbols;
};

class RecordLayout final : public orc::ObjectLinkingLayer::Plugin {
public:
  RecordLayout(Layout &layout, std::optional<uint32_t> page_offset)
      : layout_(layout), page_offset_(page_offset) {}

  void modifyPassConfig(orc::MaterializationResponsibility &, jitlink::LinkGraph &,
                        jitlink::PassConfiguration &config) override {
    // Nothing is dead: fused code may name functions only in its debug information, and a fault in one must
    // still be found.
    config.PrePrunePasses.push_back([this](jitlink::LinkGraph &graph) {
      for (jitlink::Symbol *symbol : graph.defined_symbols())
        if (symbol->isCallable())
          symbol->setLive(true);
      if (page_offset_)
        place(graph, *page_offset_);
      return Error::success();
    });
    config.PreFixupPasses.push_back([this](jitlink::LinkGraph &graph) {
      record(graph);
      return Error::success();
    });
  }

  Error notifyFailed(orc::MaterializationResponsibility &) override { return Error::success(); }
  Error notifyRemovingResources(orc::JITDylib &, orc::ResourceKey) override { return Error::success(); }
  void notifyTransferringResources(orc::JITDylib &, orc::ResourceKey, orc::ResourceKey) override {}

private:
  static void place(jitlink::LinkGraph &graph, uint32_t page_offset) {
    jitlink::Section *text = graph.findSectionByName(".text");
    if (!text || text->blocks_size() != 1) // an ELF section is one block
      return;
    (*text->blocks().begin())->setAlignment(4096);
    (*text->blocks().begin())->setAlignmentOffset(page_offset);
  }

  void record(jitlink::LinkGraph &graph) {
    for (jitlink::Symbol *symbol : graph.defined_symbols()) {
      if (!symbol->hasName())
        continue;
      uint64_t address = symbol->getAddress().getValue();
      layout_.symbols.emplace(symbol->getName().str(), address);
      if (symbol->isCallable())
        layout_.functions.push_back({address, symbol->getSize(), symbol->getName().str()});
    }
    for (jitlink::Section &section : graph.sections()) {
      if ((section.getMemProt() & orc::MemProt::Exec) == orc::MemProt::None ||
          section.getName().starts_with("$"))
        continue;
      std::vector<jitlink::Block *> blocks(section.blocks().begin(), section.blocks().end());
      std::sort(blocks.begin(), blocks.end(), [](const jitlink::Block *a, const jitlink::Block *b) {
        return a->getAddress() < b->getAddress();
      });
      for (jitlink::Block *block : blocks)
        layout_.ranges.push_back({block->getAddress().getValue(), block->getSize(),
                                  block->getAddress() - blocks.front()->getAddress(),
                                  section.getName().str()});
    }
    auto by_address = [](const auto &a, const auto &b) { return a.address < b.address; };
    std::sort(layout_.functions.begin(), layout_.functions.end(), by_address);
    std::sort(layout_.ranges.begin(), layout_.ranges.end(), by_address);
  }

  Layout &layout_;
  std::optional<uint32_t> page_offset_;
};

/// What images may use beside helpers: LLVM invents calls of the memory functions.
std::vector<ImageSymbol> support_symbols() {
  auto address = [](auto *function) { return reinterpret_cast<const void *>(function); };
  return {
      {"memcpy", address(&memcpy)},
      {"memmove", address(&memmove)},
      {"memset", address(&memset)},
      {"memcmp", address(static_cast<int (*)(const void *, const void *, size_t)>(&memcmp))},
  };
}

} // namespace

struct LoadedImage::State {
  std::unique_ptr<orc::ExecutionSession> session;
  std::unique_ptr<orc::ObjectLinkingLayer> linker;
  Layout layout;

  ~State() {
    if (session)
      llvm::consumeError(session->endSession());
  }
};

LoadedImage::LoadedImage() = default;
LoadedImage::LoadedImage(LoadedImage &&) noexcept = default;
LoadedImage &LoadedImage::operator=(LoadedImage &&) noexcept = default;
LoadedImage::~LoadedImage() = default;

const void *LoadedImage::find(std::string_view name) const {
  if (!state_)
    return nullptr;
  auto it = state_->layout.symbols.find(name);
  return it == state_->layout.symbols.end() ? nullptr : reinterpret_cast<const void *>(it->second);
}

Expected<const void *> LoadedImage::require(std::string_view name) const {
  if (const void *address = find(name))
    return address;
  return input_error("the image has no symbol " + std::string(name)).error();
}

/// The last element that starts at or before `pc` and holds it, or null.
template <class T>
static const T *holder_of(const std::vector<T> &sorted, uint64_t pc) {
  auto after = std::upper_bound(sorted.begin(), sorted.end(), pc,
                                [](uint64_t wanted, const T &e) { return wanted < e.address; });
  if (after == sorted.begin())
    return nullptr;
  const T &e = *std::prev(after);
  return pc < e.address + e.size ? &e : nullptr;
}

std::optional<CodePlace> LoadedImage::locate(uint64_t pc) const {
  const CodeRange *range = state_ ? holder_of(state_->layout.ranges, pc) : nullptr;
  if (!range)
    return std::nullopt;
  CodePlace place{range->section, range->offset + (pc - range->address), {}, 0};
  if (const Function *function = holder_of(state_->layout.functions, pc)) {
    place.symbol = function->name;
    place.symbol_offset = pc - function->address;
  }
  return place;
}

uint64_t LoadedImage::code_size() const {
  uint64_t size = 0;
  if (state_)
    for (const CodeRange &range : state_->layout.ranges)
      size += range.size;
  return size;
}

std::vector<std::pair<uint64_t, uint64_t>> LoadedImage::code_ranges() const {
  std::vector<std::pair<uint64_t, uint64_t>> out;
  if (state_)
    for (const CodeRange &range : state_->layout.ranges)
      out.emplace_back(range.address, range.size);
  return out;
}

Expected<LoadedImage> load_image(llvm::MemoryBufferRef object, std::span<const ImageSymbol> extra,
                                 std::optional<uint32_t> page_offset) {
  std::string file = object.getBufferIdentifier().str();
  auto parsed = llvm::object::ObjectFile::createELFObjectFile(object);
  if (!parsed)
    return with_place(parsed.takeError(), file);
  if ((*parsed)->getArch() != llvm::Triple::x86_64 || !(*parsed)->isRelocatableObject())
    return input_error("not a relocatable x86-64 ELF object").in_file(file).error();

  std::map<std::string_view, const void *> known;
  for (const HelperSymbol &helper : helper_symbols())
    known.emplace(helper.name, reinterpret_cast<const void *>(helper.address));
  for (const ImageSymbol &symbol : support_symbols())
    known.emplace(symbol.name, symbol.address);
  for (const ImageSymbol &symbol : extra)
    known.insert_or_assign(symbol.name, symbol.address);

  auto state = std::make_unique<LoadedImage::State>();
  auto control = orc::SelfExecutorProcessControl::Create();
  if (!control)
    return with_place(control.takeError(), file);
  state->session = std::make_unique<orc::ExecutionSession>(std::move(*control));
  orc::ExecutionSession &session = *state->session;
  session.setErrorReporter([](Error e) { llvm::consumeError(std::move(e)); }); // lookup() gives them back
  state->linker = std::make_unique<orc::ObjectLinkingLayer>(session);
  state->linker->addPlugin(std::make_shared<RecordLayout>(state->layout, page_offset));
  orc::JITDylib &image = session.createBareJITDylib("image");

  std::vector<Error> missing;
  orc::SymbolMap used;
  orc::SymbolLookupSet defined;
  for (const llvm::object::ELFSymbolRef symbol : (*parsed)->symbols()) {
    auto name = symbol.getName();
    auto flags = symbol.getFlags();
    if (!name || !flags)
      return with_place(name ? flags.takeError() : name.takeError(), file);
    if (name->empty() || symbol.getELFType() == llvm::ELF::STT_FILE ||
        symbol.getELFType() == llvm::ELF::STT_SECTION)
      continue;
    if (!(*flags & llvm::object::SymbolRef::SF_Undefined)) {
      if (*flags & llvm::object::SymbolRef::SF_Global)
        defined.add(session.intern(*name));
      continue;
    }
    auto it = known.find(std::string_view(*name));
    if (it != known.end())
      used[session.intern(*name)] = {orc::ExecutorAddr::fromPtr(it->second),
                                     llvm::JITSymbolFlags::Exported | llvm::JITSymbolFlags::Callable};
    else
      missing.push_back(unsupported(("helper " + *name + " is not supported in the embedded kernel").str())
                            .in_file(file)
                            .with_hint("the image needs it as an undefined symbol")
                            .error());
  }
  if (!missing.empty())
    return join_sorted(std::move(missing));

  if (!used.empty())
    if (Error e = image.define(orc::absoluteSymbols(std::move(used))))
      return with_place(std::move(e), file);
  auto copy = llvm::MemoryBuffer::getMemBufferCopy(object.getBuffer(), object.getBufferIdentifier());
  if (Error e = state->linker->add(image, std::move(copy)))
    return with_place(std::move(e), file);
  auto found = session.lookup({{&image, orc::JITDylibLookupFlags::MatchAllSymbols}}, std::move(defined));
  if (!found)
    return with_place(found.takeError(), file);
  LoadedImage out;
  out.state_ = std::move(state);
  return out;
}

} // namespace ujit
