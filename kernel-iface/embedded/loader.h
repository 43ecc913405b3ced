// Brings an image (relocatable x86-64 ELF) into this process. Helpers are its undefined symbols; what the
// embedded kernel does not have is refused by name before anything is mapped.
#pragma once

#include "translator/error.h"

#include "llvm/Support/MemoryBufferRef.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ujit {

struct ImageSymbol {
  std::string_view name;
  const void *address;
};

/// Where an address of loaded code comes from.
struct CodePlace {
  std::string section; ///< ELF section of the image, e.g. ".text"
  uint64_t offset;     ///< in that section
  std::string symbol;  ///< function that holds it; empty if none does
  uint64_t symbol_offset;
};

/// Code in memory, unmapped when this is destroyed. Movable.
class LoadedImage {
public:
  LoadedImage();
  LoadedImage(LoadedImage &&) noexcept;
  LoadedImage &operator=(LoadedImage &&) noexcept;
  ~LoadedImage();

  /// Address of a symbol that the image defines, or null.
  const void *find(std::string_view name) const;
  /// The same, as an error that names the symbol.
  Expected<const void *> require(std::string_view name) const;
  /// The place of a program counter; none if it is not in this image.
  std::optional<CodePlace> locate(uint64_t pc) const;
  /// Bytes of executable code.
  uint64_t code_size() const;
  /// Where the code lies, as (address, size) by address.
  std::vector<std::pair<uint64_t, uint64_t>> code_ranges() const;

private:
  friend Expected<LoadedImage> load_image(llvm::MemoryBufferRef, std::span<const ImageSymbol>,
                                          std::optional<uint32_t>);
  struct State;
  std::unique_ptr<State> state_;
};

/// Loads an image; `extra` are symbols that it may use beside helpers and the C library's memory functions.
/// The buffer is not kept. `page_offset` puts the first function so many bytes (below 4096, a multiple of 16)
/// behind the start of a page, for measuring what the place of code costs. Errors: not such an ELF object,
/// undefined symbols (each by name), relocations out of range.
Expected<LoadedImage> load_image(llvm::MemoryBufferRef object, std::span<const ImageSymbol> extra = {},
                                 std::optional<uint32_t> page_offset = {});

} // namespace ujit
