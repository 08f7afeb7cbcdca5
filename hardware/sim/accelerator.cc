// Runs jobs on the Verilated lp_accelerator. Called from hardware/cosim/accelerator.py by ctypes.
//
// Streams and the result's consumer pause at random, each with a probability of its own, so that
// every test can try the back-pressure it wants. The consumer also checks AXI-Stream's rule that
// what is offered stays until it is taken.
#include <cstdint>
#include <random>
#include <type_traits>

#include "Vtop.h"
#include "hardware/sim/bus.h"
#include "verilated.h"

#if !defined(LOWPREC_ROWS) || !defined(LOWPREC_COLS) || !defined(LOWPREC_WL)
#error "ROWS, COLS and WL of the model must be given as LOWPREC_ROWS and so on"
#endif

namespace {

using lowprec::GetBits;
using lowprec::GetSigned;
using lowprec::SetLanes;

constexpr int kRows = LOWPREC_ROWS, kCols = LOWPREC_COLS, kWidth = LOWPREC_WL;

struct Simulation {
  VerilatedContext context;
  Vtop* top = nullptr;
  std::mt19937 random;

  void Tick() {
    top->clk = 0;
    top->eval();
    top->clk = 1;
    top->eval();
  }
};

}  // namespace

extern "C" {

// All of a job. Python fills it, lp_run writes the part below.
struct LowprecJob {
  int64_t m, n, k;
  int32_t cut, mode, reseed;
  uint32_t seed;
  const int32_t* a;  // [a_beats][ROWS]
  const uint8_t* a_last;
  int64_t a_beats;
  const int32_t* b;  // [b_beats][COLS]
  const uint8_t* b_last;
  int64_t b_beats;
  double a_pause, b_pause, c_pause;  // probabilities per cycle
  int64_t max_cycles;                // then it is given up
  int64_t c_capacity;                // beats

  int32_t* c;  // [c_capacity][COLS]
  uint8_t* c_keep;
  uint8_t* c_beyond;
  uint8_t* c_last;  // [c_capacity]
  int64_t c_beats, a_taken, b_taken;
  int64_t cycles;         // from the command until the last beat and the status are taken
  int64_t status_cycles;  // as the accelerator counted
  int32_t refused, a_short, a_long, b_short, b_long, may_wrap;
};

enum LowprecResult { kDone = 0, kTimeout = 1, kUnstable = 2, kTooManyBeats = 3 };

void* lowprec_create(uint32_t seed) {
  auto* sim = new Simulation;
  sim->random.seed(seed);
  // What has no reset starts as random bits.
  sim->context.randReset(2);
  sim->context.randSeed(static_cast<int>(seed & 0x7FFFFFFF) + 1);
  sim->top = new Vtop(&sim->context);
  sim->top->rst = 1;
  sim->top->cmd_valid = sim->top->s_a_tvalid = sim->top->s_b_tvalid = 0;
  sim->top->m_c_tready = sim->top->status_ready = 0;
  for (int i = 0; i < 4; ++i) sim->Tick();
  sim->top->rst = 0;
  return sim;
}

void lowprec_destroy(void* handle) {
  auto* sim = static_cast<Simulation*>(handle);
  sim->top->final();
  delete sim->top;
  delete sim;
}

int lowprec_run(void* handle, LowprecJob* job) {
  auto* sim = static_cast<Simulation*>(handle);
  Vtop* top = sim->top;
  std::uniform_real_distribution<double> uniform(0, 1);
  auto pauses = [&](double probability) {
    return probability > 0 && uniform(sim->random) < probability;
  };
  job->c_beats = job->a_taken = job->b_taken = job->cycles = 0;
  bool sent = false, ended = false, offered = false;
  std::decay_t<decltype(top->m_c_tdata)> offered_data{};

  while (!ended || offered || top->m_c_tvalid) {
    if (job->cycles++ >= job->max_cycles) return kTimeout;
    top->cmd_valid = !sent;
    top->cmd_m = static_cast<uint32_t>(job->m);
    top->cmd_n = static_cast<uint32_t>(job->n);
    top->cmd_k = static_cast<uint32_t>(job->k);
    top->cmd_cut = static_cast<uint32_t>(job->cut);
    top->cmd_mode = static_cast<uint32_t>(job->mode);
    top->cmd_reseed = job->reseed != 0;
    top->cmd_seed = job->seed;
    // A beat that was offered stays offered.
    if (!top->s_a_tvalid && job->a_taken < job->a_beats && !pauses(job->a_pause)) {
      top->s_a_tvalid = 1;
      SetLanes(&top->s_a_tdata, job->a + job->a_taken * kRows, kRows, kWidth);
      top->s_a_tlast = job->a_last[job->a_taken];
    }
    if (!top->s_b_tvalid && job->b_taken < job->b_beats && !pauses(job->b_pause)) {
      top->s_b_tvalid = 1;
      SetLanes(&top->s_b_tdata, job->b + job->b_taken * kCols, kCols, kWidth);
      top->s_b_tlast = job->b_last[job->b_taken];
    }
    top->m_c_tready = !pauses(job->c_pause);
    top->status_ready = 1;
    top->clk = 0;
    top->eval();

    // What happens at the coming edge.
    if (top->cmd_valid && top->cmd_ready) sent = true;
    const bool a_taken = top->s_a_tvalid && top->s_a_tready;
    const bool b_taken = top->s_b_tvalid && top->s_b_tready;
    job->a_taken += a_taken;
    job->b_taken += b_taken;
    if (offered && (!top->m_c_tvalid ||
                    std::memcmp(&offered_data, &top->m_c_tdata, sizeof(offered_data)) != 0)) {
      return kUnstable;
    }
    offered = top->m_c_tvalid && !top->m_c_tready;
    offered_data = top->m_c_tdata;
    if (top->m_c_tvalid && top->m_c_tready) {
      if (job->c_beats >= job->c_capacity) return kTooManyBeats;
      const int64_t at = job->c_beats++;
      for (int j = 0; j < kCols; ++j) {
        job->c[at * kCols + j] = GetSigned(top->m_c_tdata, j * kWidth, kWidth);
        job->c_keep[at * kCols + j] = static_cast<uint8_t>(GetBits(top->m_c_tkeep, j, 1));
        job->c_beyond[at * kCols + j] = static_cast<uint8_t>(GetBits(top->m_c_tuser, j, 1));
      }
      job->c_last[at] = top->m_c_tlast;
    }
    if (top->status_valid) {
      ended = true;
      job->status_cycles = static_cast<int64_t>(top->status_cycles);
      job->refused = top->status_refused;
      job->a_short = top->status_a_short;
      job->a_long = top->status_a_long;
      job->b_short = top->status_b_short;
      job->b_long = top->status_b_long;
      job->may_wrap = top->status_may_wrap;
    }
    top->clk = 1;
    top->eval();
    if (a_taken) top->s_a_tvalid = 0;
    if (b_taken) top->s_b_tvalid = 0;
  }
  // A beat that nobody took is not there any more for the next job.
  top->s_a_tvalid = top->s_b_tvalid = 0;
  return kDone;
}

}  // extern "C"
