// Tarjan's strongly connected components (1972) and depth-first orders, with explicit stacks: a pipeline may
// be a chain of any length.
#include "graph/digraph.h"

#include <algorithm>

namespace ujit {

void Digraph::add_node(std::span<const uint32_t> successors) {
  to.insert(to.end(), successors.begin(), successors.end());
  first.push_back(to.size());
}

Components strong_components(const Digraph &graph) {
  constexpr uint32_t none = ~0u;
  Components result;
  result.of.assign(graph.size(), none);
  std::vector<uint32_t> number(graph.size(), none), low(graph.size()), next(graph.size());
  std::vector<uint32_t> path, open; // of the search; nodes without a component yet
  uint32_t count = 0;

  auto enter = [&](uint32_t node) {
    number[node] = low[node] = count++;
    next[node] = graph.first[node];
    path.push_back(node);
    open.push_back(node);
  };
  auto close = [&](uint32_t root) {
    auto &members = result.members.emplace_back();
    uint32_t node;
    do {
      node = open.back();
      open.pop_back();
      result.of[node] = result.members.size() - 1;
      members.push_back(node);
    } while (node != root);
    std::ranges::sort(members);
    result.cyclic.push_back(members.size() > 1 || std::ranges::count(graph[root], root) > 0);
  };

  for (uint32_t start = 0; start < graph.size(); ++start) {
    if (number[start] != none)
      continue;
    enter(start);
    while (!path.empty()) {
      uint32_t node = path.back();
      if (next[node] < graph.first[node + 1]) {
        uint32_t successor = graph.to[next[node]++];
        if (number[successor] == none)
          enter(successor);
        else if (result.of[successor] == none)
          low[node] = std::min(low[node], number[successor]);
        continue;
      }
      path.pop_back();
      if (!path.empty())
        low[path.back()] = std::min(low[path.back()], low[node]);
      if (low[node] == number[node])
        close(node);
    }
  }
  return result;
}

std::vector<bool> reachable_nodes(const Digraph &graph, std::span<const uint32_t> roots) {
  std::vector<bool> seen(graph.size());
  std::vector<uint32_t> work;
  auto reach = [&](uint32_t node) {
    if (!seen[node]) {
      seen[node] = true;
      work.push_back(node);
    }
  };
  for (uint32_t root : roots)
    reach(root);
  while (!work.empty()) {
    uint32_t node = work.back();
    work.pop_back();
    for (uint32_t successor : graph[node])
      reach(successor);
  }
  return seen;
}

std::vector<uint32_t> reverse_postorder(const Digraph &graph, std::span<const uint32_t> roots) {
  std::vector<bool> seen(graph.size());
  std::vector<uint32_t> next(graph.size()), path, order;
  auto enter = [&](uint32_t node) {
    if (seen[node])
      return;
    seen[node] = true;
    next[node] = graph.first[node];
    path.push_back(node);
  };
  for (uint32_t root : roots) {
    enter(root);
    while (!path.empty()) {
      uint32_t node = path.back();
      if (next[node] < graph.first[node + 1]) {
        enter(graph.to[next[node]++]);
      } else {
        order.push_back(node);
        path.pop_back();
      }
    }
  }
  std::ranges::reverse(order);
  return order;
}

} // namespace ujit
