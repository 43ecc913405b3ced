// The bundle: one folder with everything that a link was made of and made. CI judges it, and a node can
// install from it. Its bytes depend on the input alone.
//
//     objects/*.o             copies of the objects
//     manifest.ujit.yaml      the manifest, with paths into the bundle
//     maps.json               initial map contents, where the manifest names some
//     image.o                 the fused image
//     plan.json graph.json    what became of each program and edge
//     graph.svg               drawn by graphviz, where that is installed
//     report.json             sizes and counts, as the gates see them
#pragma once

#include "lto/report.h"

namespace ujit {

/// Writes the bundle into folder `path`; an older bundle there is replaced. Errors: a path that cannot be
/// written, an object that cannot be read any more. Nothing half written is left.
Error write_bundle(const std::string &path, const Manifest &manifest, const Pipeline &pipeline,
                   const LinkResult &result, const LinkReport &report);

} // namespace ujit
