// Boykov and Kolmogorov's maximum flow (2004): two search trees grow from the terminals and are mended after each path, which
// on the grids of pictures beats algorithms that search anew. Integer capacities, so any maximum flow gives the same cut.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <exception>
#include <limits>
#include <vector>

namespace {

constexpr int32_t kNone = -1, kTerminal = -2, kOrphan = -3;
constexpr int32_t kFar = std::numeric_limits<int32_t>::max();
enum Tree : int8_t { kFree, kSource, kSink };

class Graph {
public:
    Graph(int32_t nodes, int32_t edges, const int32_t* first, const int32_t* second, const int64_t* between, const int64_t* excess)
        : begin_(nodes + 1, 0), arcs_(2 * edges), excess_(excess, excess + nodes), head_(2 * edges), rest_(2 * edges),
          parent_(nodes, kNone), distance_(nodes, 0), stamp_(nodes, 0), tree_(nodes, kFree), active_(nodes, 0) {
        for (int32_t e = 0; e < edges; ++e) ++begin_[first[e] + 1], ++begin_[second[e] + 1];
        for (int32_t v = 0; v < nodes; ++v) begin_[v + 1] += begin_[v];
        std::vector<int32_t> next(begin_.begin(), begin_.end() - 1);
        for (int32_t e = 0; e < edges; ++e) {  // arc a and its reverse a ^ 1
            head_[2 * e] = second[e], head_[2 * e + 1] = first[e];
            rest_[2 * e] = between[e], rest_[2 * e + 1] = 0;
            arcs_[next[first[e]]++] = 2 * e, arcs_[next[second[e]]++] = 2 * e + 1;
        }
    }

    void solve() {
        for (int32_t v = 0; v < nodes(); ++v) {
            if (excess_[v] == 0) continue;
            tree_[v] = excess_[v] > 0 ? kSource : kSink;
            parent_[v] = kTerminal, distance_[v] = 1;
            activate(v);
        }
        while (!queue_.empty()) {
            const int32_t v = queue_.front();
            const int32_t bridge = tree_[v] == kFree ? kNone : grow(v);
            if (bridge == kNone) {
                queue_.pop_front(), active_[v] = 0;
                continue;  // v is done with; else it may bridge again
            }
            ++time_;
            augment(bridge);
            while (!orphans_.empty()) {
                const int32_t orphan = orphans_.front();
                orphans_.pop_front();
                adopt(orphan);
            }
        }
    }

    void source_side(uint8_t* keeps) const {  // the least one: what the source still reaches
        std::vector<int32_t> reached;
        for (int32_t v = 0; v < nodes(); ++v) {
            keeps[v] = excess_[v] > 0;
            if (keeps[v]) reached.push_back(v);
        }
        while (!reached.empty()) {
            const int32_t v = reached.back();
            reached.pop_back();
            for (int32_t i = begin_[v]; i < begin_[v + 1]; ++i) {
                const int32_t a = arcs_[i], w = head_[a];
                if (rest_[a] > 0 && !keeps[w]) keeps[w] = 1, reached.push_back(w);
            }
        }
    }

private:
    int32_t nodes() const { return static_cast<int32_t>(excess_.size()); }

    void activate(int32_t v) {
        if (!active_[v]) active_[v] = 1, queue_.push_back(v);
    }

    // What is left of the arc between a node of a tree and a neighbour, in the direction in which that tree's flow passes it.
    int64_t outwards(int8_t tree, int32_t arc) const { return tree == kSource ? rest_[arc] : rest_[arc ^ 1]; }
    int64_t inwards(int8_t tree, int32_t arc) const { return tree == kSource ? rest_[arc ^ 1] : rest_[arc]; }

    // Takes in free neighbours until it meets the other tree: the arc from the source's tree to the sink's, or none.
    int32_t grow(int32_t v) {
        for (int32_t i = begin_[v]; i < begin_[v + 1]; ++i) {
            const int32_t a = arcs_[i], w = head_[a];
            if (outwards(tree_[v], a) == 0) continue;
            if (tree_[w] == kFree) {
                tree_[w] = tree_[v], parent_[w] = a ^ 1, distance_[w] = distance_[v] + 1, stamp_[w] = stamp_[v];
                activate(w);
            } else if (tree_[w] != tree_[v]) {
                return tree_[v] == kSource ? a : a ^ 1;
            } else if (stamp_[w] <= stamp_[v] && distance_[w] > distance_[v] + 1) {  // a shorter way to the terminal
                parent_[w] = a ^ 1, distance_[w] = distance_[v] + 1, stamp_[w] = stamp_[v];
            }
        }
        return kNone;
    }

    void augment(int32_t bridge) {
        int64_t flow = rest_[bridge];
        const int32_t source_end = head_[bridge ^ 1], sink_end = head_[bridge];
        int32_t v = source_end;
        for (; parent_[v] != kTerminal; v = head_[parent_[v]]) flow = std::min(flow, rest_[parent_[v] ^ 1]);
        flow = std::min(flow, excess_[v]);
        for (v = sink_end; parent_[v] != kTerminal; v = head_[parent_[v]]) flow = std::min(flow, rest_[parent_[v]]);
        flow = std::min(flow, -excess_[v]);
        rest_[bridge] -= flow, rest_[bridge ^ 1] += flow;
        for (v = source_end; parent_[v] != kTerminal;) {
            const int32_t up = parent_[v];
            rest_[up] += flow, rest_[up ^ 1] -= flow;
            if (rest_[up ^ 1] == 0) orphan(v);
            v = head_[up];
        }
        excess_[v] -= flow;
        if (excess_[v] == 0) orphan(v);
        for (v = sink_end; parent_[v] != kTerminal;) {
            const int32_t up = parent_[v];
            rest_[up] -= flow, rest_[up ^ 1] += flow;
            if (rest_[up] == 0) orphan(v);
            v = head_[up];
        }
        excess_[v] += flow;
        if (excess_[v] == 0) orphan(v);
    }

    void orphan(int32_t v) { parent_[v] = kOrphan, orphans_.push_back(v); }

    // How far a node is from its terminal, `kFar` if an orphan is on the way; the way is stamped, so it is walked once.
    int32_t measure(int32_t v) {
        int32_t top = v, far = 0;
        for (; stamp_[top] != time_; top = head_[parent_[top]], ++far) {
            if (parent_[top] == kOrphan) return kFar;
            if (parent_[top] == kTerminal) {
                stamp_[top] = time_, distance_[top] = 1;
                break;
            }
        }
        far += distance_[top];
        for (int32_t u = v, left = far; u != top; u = head_[parent_[u]]) stamp_[u] = time_, distance_[u] = left--;
        return far;
    }

    void adopt(int32_t v) {
        const int8_t tree = tree_[v];
        int32_t best = kNone, nearest = kFar;
        for (int32_t i = begin_[v]; i < begin_[v + 1]; ++i) {
            const int32_t a = arcs_[i], w = head_[a];
            if (tree_[w] != tree || inwards(tree, a) == 0) continue;
            const int32_t far = measure(w);
            if (far < nearest) nearest = far, best = a;
        }
        if (best != kNone) {
            parent_[v] = best, distance_[v] = nearest + 1, stamp_[v] = time_;
            return;
        }
        for (int32_t i = begin_[v]; i < begin_[v + 1]; ++i) {
            const int32_t a = arcs_[i], w = head_[a];
            if (tree_[w] != tree) continue;
            if (inwards(tree, a) > 0) activate(w);
            if (parent_[w] >= 0 && head_[parent_[w]] == v) orphan(w);
        }
        tree_[v] = kFree, parent_[v] = kNone;
    }

    std::vector<int32_t> begin_, arcs_;  // each node's arcs: arcs_[begin_[v]] up to arcs_[begin_[v + 1]]
    std::vector<int64_t> excess_;        // > 0: left of the arc from the source; < 0: of the one to the sink
    std::vector<int32_t> head_;
    std::vector<int64_t> rest_;
    std::vector<int32_t> parent_, distance_, stamp_;  // parent_: the arc to it
    std::vector<int8_t> tree_, active_;
    std::deque<int32_t> queue_, orphans_;
    int32_t time_ = 0;
};

}  // namespace

// Returns 0, or 1 where memory does not suffice.
extern "C" int32_t spinnerf_min_cut(
    int32_t nodes, int32_t edges, const int32_t* first, const int32_t* second, const int64_t* between, const int64_t* excess,
    uint8_t* keeps) {
    try {
        Graph graph(nodes, edges, first, second, between, excess);
        graph.solve();
        graph.source_side(keeps);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}
