// Plain directed graphs: what the call graph and the plan need of graph theory, without recursion.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace ujit {

/// Compressed adjacency: the successors of node n are to[first[n] .. first[n+1]).
struct Digraph {
  std::vector<uint32_t> first{0};
  std::vector<uint32_t> to;

  uint32_t size() const { return first.size() - 1; }
  std::span<const uint32_t> operator[](uint32_t node) const {
    return std::span(to).subspan(first[node], first[node + 1] - first[node]);
  }
  /// Adds a node behind the last one.
  void add_node(std::span<const uint32_t> successors);
};

/// Strongly connected components; a component has a higher number than those it leads to.
struct Components {
  std::vector<uint32_t> of;                   ///< by node
  std::vector<std::vector<uint32_t>> members; ///< by component, sorted
  std::vector<bool> cyclic;                   ///< by component: it has an edge inside
};
Components strong_components(const Digraph &graph);

/// Nodes on a path from `roots`, these included.
std::vector<bool> reachable_nodes(const Digraph &graph, std::span<const uint32_t> roots);

/// Nodes from `roots` in reverse postorder of a depth-first search that takes roots and successors in order:
/// a node comes before its successors, except along edges that close a cycle.
std::vector<uint32_t> reverse_postorder(const Digraph &graph, std::span<const uint32_t> roots);

} // namespace ujit
