// Threads of XLA's pool that work on one thing after another, awake in between.

#ifndef REDUCTION_TEAM_H_
#define REDUCTION_TEAM_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace team {

constexpr int kSpins = 4000;  // looks at the others before another process may run: some 10 us

inline void Look(int& spins) {
  if (++spins % kSpins == 0) std::this_thread::yield();
}

// The calling thread and up to threads - 1 of the pool's (0: all), until the team ends. A helper
// that the pool starts late finds nothing left and touches nothing: parts are waited for, not
// helpers.
class Team {
 public:
  Team(xla::ffi::ThreadPool& pool, int64_t threads) : state_(std::make_shared<State>()) {
    int64_t there = std::max<int64_t>(1, pool.num_threads());
    threads_ = threads > 0 ? std::min(threads, there) : there;
    for (int64_t i = 1; i < threads_; ++i) pool.Schedule([state = state_] { Help(*state); });
  }
  ~Team() { state_->ended.store(true, std::memory_order_release); }
  Team(const Team&) = delete;

  // Runs work(begin, end) over parts of 0..count, some four for each thread, which begin at
  // multiples of `unit`. Returns when all are done.
  template <typename Work>
  void Run(int64_t count, int64_t unit, const Work& work) {
    if (count <= 0) return;
    int64_t most = 4 * threads_ * unit, part = (count + most - 1) / most * unit;
    uint64_t parts = (count + part - 1) / part;
    if (threads_ == 1 || parts == 1) return work(int64_t{0}, count);
    state_->work = &work;
    state_->call = [](const void* work, int64_t begin, int64_t end) {
      (*static_cast<const Work*>(work))(begin, end);
    };
    state_->part = part, state_->count = count;
    state_->done.store(0, std::memory_order_relaxed);
    // a new number for each Run: a helper that looked at the one before takes nothing of this
    state_->ticket.store(++run_ << 32 | parts << 16, std::memory_order_release);
    while (Take(*state_)) {
    }
    for (int spins = 0; state_->done.load(std::memory_order_acquire) < parts;) Look(spins);
  }

 private:
  struct State {
    std::atomic<uint64_t> ticket{0};  // of a Run: its number, its parts, those that are taken
    std::atomic<uint64_t> done{0};
    std::atomic<bool> ended{false};
    const void* work;
    void (*call)(const void*, int64_t, int64_t);
    int64_t part, count;
  };

  // Takes and does a part; false where none is left. What is read of a Run stays until its last
  // part is done.
  static bool Take(State& state) {
    uint64_t seen = state.ticket.load(std::memory_order_acquire);
    do {
      if ((seen & 0xffff) == (seen >> 16 & 0xffff)) return false;
    } while (!state.ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire));
    int64_t begin = int64_t(seen & 0xffff) * state.part;
    state.call(state.work, begin, std::min(state.count, begin + state.part));
    state.done.fetch_add(1, std::memory_order_release);
    return true;
  }

  static void Help(State& state) {
    for (int spins = 0; !state.ended.load(std::memory_order_acquire);) {
      if (!Take(state)) Look(spins);
    }
  }

  std::shared_ptr<State> state_;
  int64_t threads_;
  uint64_t run_ = 0;
};

}  // namespace team

#endif  // REDUCTION_TEAM_H_
