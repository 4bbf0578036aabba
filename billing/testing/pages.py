"""The fake's pages for people: pay a Checkout Session, finish onboarding, look at an account."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from billing.testing import accounts, balances, checkout, forms
from billing.testing.state import Fake
from billing.testing.values import JsonObject, missing

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:12vh auto;padding:0 1rem;color:#1a1f36}}
.note{{background:#fff4d6;border-radius:6px;padding:.5rem .75rem;font-size:.875rem}}
.sum{{font-size:2.25rem;font-weight:600;margin:.5rem 0}}
button{{font:inherit;width:100%;padding:.7rem;margin:.25rem 0;border:0;border-radius:6px;background:#0b5fff;color:#fff}}
button.quiet{{background:#e6e9f0;color:#1a1f36}} button:focus-visible{{outline:3px solid #ffb000}}
</style><main><p class="note">Test mode: a stand-in for Stripe. No real money moves.</p><h1>{title}</h1>{body}</main>"""


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body=body), status)


def _button(label: str, value: str, quiet: bool = False) -> str:
    look = ' class="quiet"' if quiet else ""
    return f'<button{look} name="outcome" value="{escape(value)}">{escape(label)}</button>'


def router(fake: Fake) -> APIRouter:
    """The pages of one fake."""
    routes = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

    @routes.get("/pay/{session_id}")
    async def pay_page(session_id: str) -> HTMLResponse:
        return _pay_page(fake.get(checkout.NOUN, session_id))

    @routes.post("/pay/{session_id}", response_model=None)
    async def pay(session_id: str, request: Request) -> HTMLResponse | RedirectResponse:
        session = fake.get(checkout.NOUN, session_id)
        outcome = str(forms.parse((await request.body()).decode()).get("outcome", "paid"))
        if outcome == "cancel":
            return RedirectResponse(session["cancel_url"] or session["success_url"], 303)
        checkout.finish(fake, session, outcome)
        fake.save()
        if outcome == "declined":
            return _pay_page(session, "Your card was declined. Nothing was charged.")
        return RedirectResponse(session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id), 303)

    @routes.get("/onboard/{token}", response_model=None)
    async def onboard_page(token: str) -> HTMLResponse | RedirectResponse:
        link = _link(fake, token)
        if link["used"] or link["expires_at"] <= fake.now():
            return RedirectResponse(link["refresh_url"], 303)
        body = f"<p>Account {escape(link['for'])}</p><form method=post>{_button('Finish onboarding', 'done')}</form>"
        return _page("Get paid", body)

    @routes.post("/onboard/{token}")
    async def onboard(token: str) -> RedirectResponse:
        link = _link(fake, token)
        if link["used"] or link["expires_at"] <= fake.now():
            return RedirectResponse(link["refresh_url"], 303)
        link["used"] = True
        accounts.onboard(fake, link["for"])
        fake.save()
        return RedirectResponse(link["return_url"], 303)

    @routes.get("/dashboard/{account_id}")
    async def dashboard(account_id: str) -> HTMLResponse:
        account = accounts.by_id(fake, account_id)
        sums = [
            f"<p>{word.capitalize()}</p><p class=sum>{_money(item['amount'], item['currency'])}</p>"
            for word in ("available", "pending")
            for item in balances.of_account(fake, account["id"])[word]
        ]
        return _page("Your balance", "".join(sums))

    return routes


def _pay_page(session: JsonObject, problem: str = "") -> HTMLResponse:
    amount = _money(session["amount_total"], session["currency"])
    head = f"<p class=sum>{amount}</p>" + (f"<p role=alert>{escape(problem)}</p>" if problem else "")
    if session["status"] != "open":
        return _page("Payment", f"{head}<p>This payment is {escape(session['status'])}.</p>", 410)
    buttons = _button(f"Pay {amount}", "paid") + _button("Pay with a declined card", "declined", True)
    return _page("Payment", f"{head}<form method=post>{buttons}{_button('Cancel', 'cancel', True)}</form>")


def _link(fake: Fake, token: str) -> JsonObject:
    link = fake.state.hidden.get(token)
    if link is None or "refresh_url" not in link:
        raise missing("account_link", token)
    return link


def _money(amount: int, currency: str) -> str:
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02d} {escape(currency.upper())}"
