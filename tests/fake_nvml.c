/* A scripted libnvidia-ml.so.1 for tests.
 *
 * A script (fake_nvml_load, or the file named in FAKE_NVML_SCRIPT at nvmlInit) describes cards; a virtual clock (fake_nvml_advance) moves
 * them, or the real one where the script says `clock real`. Power is integrated on a grid of 100 us, so the truth is known exactly and
 * every reading is made from it the way a board's sensor makes it: averaged over a window, renewed now and then, late.
 *
 * A script has one directive a line; `card` begins a card:
 *   clock virtual|real            driver 580.65.06
 *   card                          name NVIDIA A100-SXM4-40GB       uuid GPU-0             capability 8 0          memory 42949672960
 *   idle W                        power constant W | square HIGH LOW PERIOD DUTY | saw LOW HIGH PERIOD | ramp LOW HIGH SECONDS
 *   rise TAU                      fall TAU                         heat AMBIENT_C C_PER_W TAU
 *   sensor PERIOD WINDOW          average WINDOW                   usage instant|average
 *   counter exact|sampled PERIOD  lag SECONDS                      gain COUNTER POWER
 *   event BITS FROM TO POWER      process PID FROM TO              own 0|1                mig 0|1
 *   clocks SM MEMORY DEFAULT      fail CALL CODE FROM TO
 * `square` and `saw` begin with each run (fake_nvml_run), `ramp` with the script. TO and FROM are seconds, in words: from, then to.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK 1e-4
#define CARDS 8
#define FEW 16

typedef int R;
enum { OK = 0, UNINITIALISED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { CONSTANT, SQUARE, SAW, RAMP };

typedef struct { char call[32]; int code; double from, to; } Fail;
typedef struct { unsigned long long bits; double from, to, power; } Event;
typedef struct { unsigned pid; double from, to; } Process;

typedef struct card {
  char name[96], uuid[96];
  int major, minor, mig, own, shape, usage_averages, sampled, fails, events, processes;
  unsigned long long memory;
  double idle, a, b, period, duty, rise, fall, ambient, per_watt, heat_tau;
  double sensor_period, sensor_window, average_window, counter_period, lag, counter_gain, power_gain;
  unsigned sm, mem, default_sm;
  Fail fail[FEW];
  Event event[FEW];
  Process process[FEW];
  /* what happened so far */
  double *joules;  /* true energy at each tick */
  double *sampled_joules;  /* energy at each renewal of the sensor, as one counts that sees its window only */
  long sampled_n, sampled_room;
  double power, temperature;
  int busy;
  double run_began;
} Card;

static Card cards[CARDS];
static int count, initialised, real_clock;
static long ticks, room;
static double left_over, real_zero;
static char driver[64];

static double monotonic(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static double now(void) { return ticks * TICK; }

static double wanted(Card *c) {
  double phase = now() - c->run_began;
  double within = c->period > 0 ? fmod(phase + 1e-9, c->period) / c->period : 0;
  if (!c->busy) return c->idle;
  switch (c->shape) {
    case SQUARE: return within < c->duty ? c->a : c->b;
    case SAW: return c->a + (c->b - c->a) * within;
    case RAMP: return c->a + (c->b - c->a) * fmin(1, now() / c->period);
    default: return c->a;
  }
}

static unsigned long long bits_of(Card *c, double *power) {
  unsigned long long bits = c->busy ? 0 : 1;
  for (int i = 0; i < c->events; i++)
    if (now() >= c->event[i].from && now() < c->event[i].to) {
      bits |= c->event[i].bits;
      *power *= c->event[i].power;
    }
  return bits;
}

static long to_ticks(double seconds) { return lround(seconds / TICK); }

/* mean power in W over a window that ends at a tick; the board idled before the script began */
static double mean_w(Card *c, long end, double window) {
  long n = to_ticks(window), start = end - n;
  double before = start < 0 ? -start * TICK * c->idle : 0;
  if (n < 1) return c->power;
  return (c->joules[end > 0 ? end : 0] - c->joules[start > 0 ? start : 0] + before) / (n * TICK);
}

static void tick(Card *c) {
  double target = wanted(c), tau, factor = 1;
  bits_of(c, &factor);
  target *= factor;
  tau = target > c->power ? c->rise : c->fall;
  c->power += tau > 0 ? (target - c->power) * (1 - exp(-TICK / tau)) : target - c->power;
  c->temperature += (c->ambient + c->per_watt * c->power - c->temperature) * (1 - exp(-TICK / c->heat_tau));
  c->joules[ticks + 1] = c->joules[ticks] + c->power * TICK;
}

static void renew(Card *c) {
  if (ticks % to_ticks(c->sensor_period)) return;
  if (c->sampled_n == c->sampled_room) {
    c->sampled_room += 4096;
    c->sampled_joules = realloc(c->sampled_joules, c->sampled_room * sizeof(double));
  }
  double before = c->sampled_n ? c->sampled_joules[c->sampled_n - 1] : 0;
  c->sampled_joules[c->sampled_n++] = ticks ? before + mean_w(c, ticks, c->sensor_window) * c->sensor_period : 0;
}

void fake_nvml_advance(double seconds) {
  left_over += seconds / TICK;
  long n = (long)floor(left_over + 1e-6);
  left_over -= n;
  if (ticks + n + 2 > room) {
    room = ticks + n + 1000000;
    for (int i = 0; i < count; i++) cards[i].joules = realloc(cards[i].joules, room * sizeof(double));
  }
  for (; n > 0; n--) {
    for (int i = 0; i < count; i++) tick(&cards[i]);
    ticks++;
    for (int i = 0; i < count; i++) renew(&cards[i]);
  }
}

static void catch_up(void) {
  if (real_clock) fake_nvml_advance(monotonic() - real_zero - now());
}

double fake_nvml_joules(int i) { catch_up(); return cards[i].joules[ticks]; }
void fake_nvml_run(int i) { cards[i].busy = 1; cards[i].run_began = now(); }
void fake_nvml_draw(int i, double watts) { cards[i].shape = CONSTANT; cards[i].a = watts; }  /* of the work to come */
void fake_nvml_idle(int i) { cards[i].busy = 0; }

static void defaults(Card *c) {
  memset(c, 0, sizeof *c);
  snprintf(c->name, sizeof c->name, "NVIDIA A100-SXM4-40GB");
  snprintf(c->uuid, sizeof c->uuid, "GPU-fake-%d", count);
  c->major = 8; c->memory = 42949672960ULL;
  c->idle = 60; c->a = 300;
  c->ambient = 30; c->per_watt = 0.1; c->heat_tau = 10;
  c->sensor_period = 0.1; c->sensor_window = 0.025; c->average_window = 1;
  c->counter_period = 0.1; c->counter_gain = c->power_gain = 1;
  c->sm = 1410; c->mem = 1215; c->default_sm = 1095;
  c->own = 1;
}

static int number(char *text, double *value) {
  char *end;
  if (!text) return 0;
  *value = strcmp(text, "ever") ? strtod(text, &end) : 1e18;
  return 1;
}

static void directive(char *line) {
  char *word = strtok(line, " \n"), *rest = strtok(NULL, "\n"), *p[8] = {0}, text[256] = "";
  double v[8] = {0};
  if (!word || *word == '#') return;
  snprintf(text, sizeof text, "%s", rest ? rest : "");
  int n = 0;
  for (char *w = rest ? strtok(rest, " ") : NULL; w && n < 8; w = strtok(NULL, " ")) { number(w, &v[n]); p[n++] = w; }
#define IS(x) (!strcmp(word, x))
  if (IS("clock")) real_clock = !strcmp(p[0], "real");
  else if (IS("driver")) snprintf(driver, sizeof driver, "%s", text);
  else if (IS("card") && count < CARDS) { defaults(&cards[count]); count++; }
  Card *c = &cards[count ? count - 1 : 0];
  if (IS("name")) snprintf(c->name, sizeof c->name, "%.95s", text);
  else if (IS("uuid")) snprintf(c->uuid, sizeof c->uuid, "%.95s", text);
  else if (IS("capability")) { c->major = v[0]; c->minor = v[1]; }
  else if (IS("memory")) c->memory = v[0];
  else if (IS("idle")) c->idle = v[0];
  else if (IS("power")) {
    c->shape = !strcmp(p[0], "square") ? SQUARE : !strcmp(p[0], "saw") ? SAW : !strcmp(p[0], "ramp") ? RAMP : CONSTANT;
    c->a = v[1]; c->b = v[2]; c->period = v[3]; c->duty = v[4];
  }
  else if (IS("rise")) c->rise = v[0];
  else if (IS("fall")) c->fall = v[0];
  else if (IS("heat")) { c->ambient = v[0]; c->per_watt = v[1]; c->heat_tau = v[2]; }
  else if (IS("sensor")) { c->sensor_period = v[0]; c->sensor_window = v[1]; }
  else if (IS("average")) c->average_window = v[0];
  else if (IS("usage")) c->usage_averages = !strcmp(p[0], "average");
  else if (IS("counter")) { c->sampled = !strcmp(p[0], "sampled"); c->counter_period = v[1]; }
  else if (IS("lag")) c->lag = v[0];
  else if (IS("gain")) { c->counter_gain = v[0]; c->power_gain = v[1]; }
  else if (IS("event") && c->events < FEW) c->event[c->events++] = (Event){strtoull(p[0], 0, 0), v[1], v[2], v[3]};
  else if (IS("process") && c->processes < FEW) c->process[c->processes++] = (Process){v[0], v[1], v[2]};
  else if (IS("own")) c->own = v[0];
  else if (IS("mig")) c->mig = v[0];
  else if (IS("clocks")) { c->sm = v[0]; c->mem = v[1]; c->default_sm = v[2]; }
  else if (IS("fail") && c->fails < FEW) {
    Fail *f = &c->fail[c->fails++];
    snprintf(f->call, sizeof f->call, "%.31s", p[0]);
    f->code = v[1]; f->from = v[2]; f->to = v[3];
  }
#undef IS
}

int fake_nvml_load(const char *path) {
  FILE *file = fopen(path, "r");
  char line[512];
  if (!file) return 1;
  for (int i = 0; i < count; i++) { free(cards[i].joules); free(cards[i].sampled_joules); }
  count = real_clock = initialised = 0;
  ticks = 0; left_over = 0;
  snprintf(driver, sizeof driver, "580.65.06");
  while (fgets(line, sizeof line, file)) directive(line);
  fclose(file);
  room = 1000000;
  for (int i = 0; i < count; i++) {
    Card *c = &cards[i];
    c->joules = calloc(room, sizeof(double));
    c->power = c->idle;
    c->temperature = c->ambient + c->per_watt * c->idle;
    renew(c);
  }
  real_zero = monotonic();
  return 0;
}

static R failing(Card *c, const char *call) {
  if (!initialised) return UNINITIALISED;
  catch_up();
  for (int i = 0; c && i < c->fails; i++) {
    Fail *f = &c->fail[i];
    if ((!strcmp(f->call, call) || !strcmp(f->call, "all")) && now() >= f->from && now() < f->to) return f->code;
  }
  return OK;
}
#define ASK(name) do { R r = failing(c, name); if (r) return r; } while (0)

R nvmlInitWithFlags(unsigned flags) {
  const char *path = getenv("FAKE_NVML_SCRIPT");
  (void)flags;
  if (!count && path) fake_nvml_load(path);
  for (int i = 0; i < cards[0].fails; i++) if (!strcmp(cards[0].fail[i].call, "init")) return cards[0].fail[i].code;
  initialised = 1;
  return OK;
}
R nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
R nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(R r) { return r == NOT_SUPPORTED ? "Not Supported" : "an error of the fake driver"; }
R nvmlSystemGetDriverVersion(char *b, unsigned n) { Card *c = &cards[0]; ASK("driver"); snprintf(b, n, "%s", driver); return OK; }
R nvmlDeviceGetCount_v2(unsigned *n) { Card *c = &cards[0]; ASK("count"); *n = count; return OK; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, Card **d) {
  if (!initialised) return UNINITIALISED;
  if ((int)i >= count) return INVALID;
  *d = &cards[i];
  return OK;
}
R nvmlDeviceGetHandleByUUID(const char *uuid, Card **d) {
  if (!initialised) return UNINITIALISED;
  for (int i = 0; i < count; i++) if (!strcmp(cards[i].uuid, uuid)) { *d = &cards[i]; return OK; }
  return NOT_FOUND;
}
R nvmlDeviceGetName(Card *c, char *b, unsigned n) { ASK("name"); snprintf(b, n, "%s", c->name); return OK; }
R nvmlDeviceGetUUID(Card *c, char *b, unsigned n) { ASK("uuid"); snprintf(b, n, "%s", c->uuid); return OK; }
R nvmlDeviceGetCudaComputeCapability(Card *c, int *a, int *b) { ASK("capability"); *a = c->major; *b = c->minor; return OK; }
R nvmlDeviceGetMemoryInfo(Card *c, unsigned long long *m) { ASK("memory"); m[0] = m[1] = c->memory; m[2] = 0; return OK; }
R nvmlDeviceGetMigMode(Card *c, unsigned *now_, unsigned *next) { ASK("mig"); *now_ = *next = c->mig; return OK; }
R nvmlDeviceGetTemperature(Card *c, unsigned kind, unsigned *t) { (void)kind; ASK("temperature"); *t = lround(c->temperature); return OK; }
R nvmlDeviceGetDefaultApplicationsClock(Card *c, unsigned kind, unsigned *mhz) { (void)kind; ASK("default_clock"); *mhz = c->default_sm; return OK; }
R nvmlDeviceGetClockInfo(Card *c, unsigned kind, unsigned *mhz) {
  double power = 1;
  ASK(kind == 2 ? "memory_clock" : "clock");
  *mhz = kind == 2 ? c->mem : bits_of(c, &power) & 0xe8 ? c->sm / 2 : c->sm;
  return OK;
}
R nvmlDeviceGetCurrentClocksEventReasons(Card *c, unsigned long long *bits) { double power = 1; ASK("events"); *bits = bits_of(c, &power); return OK; }
R nvmlDeviceGetCurrentClocksThrottleReasons(Card *c, unsigned long long *bits) { double power = 1; ASK("throttle"); *bits = bits_of(c, &power); return OK; }

static unsigned instant_mw(Card *c) {
  long period = to_ticks(c->sensor_period);
  return lround(1e3 * c->power_gain * mean_w(c, ticks / period * period, c->sensor_window));
}
/* an average is one of what the sensor saw, not of what there was */
static unsigned average_mw(Card *c) {
  long last = ticks / to_ticks(c->sensor_period), n = lround(c->average_window / c->sensor_period), first = last - n;
  double before = first < 0 ? -first * c->sensor_period * c->idle : 0;
  return lround(1e3 * c->power_gain * (c->sampled_joules[last] - c->sampled_joules[first > 0 ? first : 0] + before) / (n * c->sensor_period));
}
R nvmlDeviceGetPowerUsage(Card *c, unsigned *mw) {
  ASK("power");
  *mw = c->usage_averages ? average_mw(c) : instant_mw(c);
  return OK;
}
R nvmlDeviceGetTotalEnergyConsumption(Card *c, unsigned long long *mj) {
  ASK("energy");
  long period = to_ticks(c->counter_period), seen = ticks - to_ticks(c->lag);
  seen = seen > 0 ? seen / period * period : 0;
  double joules = c->sampled ? c->sampled_joules[seen / to_ticks(c->sensor_period)] : c->joules[seen];
  *mj = llround(1e3 * c->counter_gain * joules) + 123456789;
  return OK;
}

typedef union { double d; unsigned ui; unsigned long long ull; long long sll; } Value;
typedef struct { unsigned id, scope; long long when, latency; unsigned type; R result; Value value; } Field;
R nvmlDeviceGetFieldValues(Card *c, int n, Field *f) {
  ASK("fields");
  for (int i = 0; i < n; i++) {
    f[i].result = failing(c, f[i].id == 185 ? "average" : "instant");
    if (f[i].id != 185 && f[i].id != 186) f[i].result = NOT_SUPPORTED;
    f[i].type = 1;
    f[i].when = now() * 1e6;
    f[i].value.ui = f[i].id == 185 ? average_mw(c) : instant_mw(c);
  }
  return OK;
}

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu, compute; } Info;
static R running(Card *c, unsigned *n, Info *info) {
  unsigned found = 0, pids[FEW + 1];
  if (c->own) pids[found++] = getpid();
  for (int i = 0; i < c->processes; i++)
    if (now() >= c->process[i].from && now() < c->process[i].to) pids[found++] = c->process[i].pid;
  if (*n < found) { *n = found; return TOO_SMALL; }
  for (unsigned i = 0; i < found; i++) info[i] = (Info){pids[i], 1 << 28, ~0u, ~0u};
  *n = found;
  return OK;
}
R nvmlDeviceGetComputeRunningProcesses_v3(Card *c, unsigned *n, Info *info) { ASK("processes"); return running(c, n, info); }
R nvmlDeviceGetComputeRunningProcesses_v2(Card *c, unsigned *n, Info *info) { ASK("processes_v2"); return running(c, n, info); }
